"""Measures what each output costs: the engine's time with it relative to the time without, interleaved.

An output that is not requested is removed from the graph, so only users who request it pay for it.
"""

import statistics
import time
from typing import Any

import numpy as np
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.engines import EngineOptions, load_engine

ROUNDS = 15
CASES = {
    # bundle, the output everybody wants, another one, input shape
    "embedding": ("imagenet-lite0", "probabilities", (8, 224, 224, 3)),
    "explanation": ("imagenet-lite0", "probabilities", (8, 224, 224, 3)),
    "attention": ("imagenette-vit", "probabilities", (4, 224, 224, 3)),
    "confidence": ("camvid-lraspp", "mask", (2, 360, 480, 3)),
}


@pytest.mark.parametrize("output", CASES)
def bench_output(benchmark: Any, output: str) -> None:
    """Print the median of the rounds' ratios, with / without."""
    name, main, shape = CASES[output]
    bundle, options = open_bundle(name), EngineOptions(threads=1)
    image = {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    without: list[float] = []
    with (
        load_engine(bundle, "ort", outputs=[main], options=options) as plain,
        load_engine(bundle, "ort", outputs=[main, output], options=options) as more,
    ):

        def setup() -> None:
            start = time.perf_counter()
            plain.infer(image)
            without.append(time.perf_counter() - start)

        benchmark.pedantic(lambda: more.infer(image), setup=setup, rounds=ROUNDS, warmup_rounds=2)
    times = benchmark.stats.stats.data
    ratios = sorted(a / b for a, b in zip(times, without[2:], strict=True))
    benchmark.extra_info["ratio"] = statistics.median(ratios)
    print(
        f"\n{name}: {main} and {output} take {statistics.median(ratios):.3f} of {main} alone "
        f"(quartiles {ratios[ROUNDS // 4]:.3f} to {ratios[ROUNDS * 3 // 4]:.3f}), {shape}, 1 thread"
    )
