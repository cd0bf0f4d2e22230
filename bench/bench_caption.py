"""Measures captioning time by caption length. With the key/value cache, each word costs the same at any position.

The same decoder without a cache, which recomputes all earlier words for each word, runs beside it. The network
is random, of the size of recipe caption-flickr8k-mobilenet with a longer cache. Both run in PyTorch on one
thread, then the exported graph on ONNX Runtime, with the cache through the host and kept by IO binding, as engine `cuda` keeps it.

    pytest bench/bench_caption.py -s
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dlcv.export.caption import graph_from_decoder
from dlcv.runtime.bundle.report import table
from dlcv.runtime.engines.base import EngineModel, EngineOptions
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.engines.ort_stateful import OrtRuns
from dlcv.runtime.engines.stateful import HostRuns, State, StatefulRuns
from dlcv.runtime.measure.timing import interleaved, subject_from_call
from dlcv.train.caption.network import CaptionDecoder
from dlcv.train.caption.recipe import DecoderConfig

LENGTHS = (8, 16, 32, 64, 128)
SECONDS = 10
KINDS = ("no cache", "cache", "ort", "kept")


@pytest.fixture(scope="module")
def decoder() -> CaptionDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(length=max(LENGTHS))
    return CaptionDecoder(config, vocabulary=1728, channels=1280, grid=(7, 7)).eval()


def with_cache(decoder: CaptionDecoder, memory: torch.Tensor, length: int) -> None:
    cache, token = torch.zeros(1, *decoder.cache_shape), torch.tensor([1])
    for position in range(length):
        logits, cache, _ = decoder.step(token, torch.tensor([position]), cache, memory)
        token = logits.argmax(dim=1)


def without_cache(decoder: CaptionDecoder, memory: torch.Tensor, length: int) -> None:
    said = torch.tensor([[1]])
    for _ in range(length - 1):
        said = torch.cat([said, decoder(said, memory)[:, -1:].argmax(dim=2)], dim=1)
    decoder(said, memory)


def on_engine(
    begin: Callable[[State], StatefulRuns], decoder: CaptionDecoder, memory: Any, length: int
) -> None:
    cache, token = np.zeros((1, *decoder.cache_shape), np.float32), np.ones(1, np.int32)
    runs = begin(
        State(carried={"next_cache": "cache"}, first={"cache": cache}, held={"memory": memory})
    )
    for position in range(length):
        outputs = runs.run({"token": token, "position": np.full(1, position, np.int32)})
        token = outputs["logits"].argmax(1).astype(np.int32)


def kept(engine: OrtEngine, state: State) -> OrtRuns:
    specs = engine.inputs, engine.outputs
    return OrtRuns(
        engine._session, state, specs=specs, place=("cpu", 0), errors=lambda _: nullcontext()
    )


def bench_caption(benchmark: Any, decoder: CaptionDecoder) -> None:
    """Print milliseconds per caption and per word, by length."""
    torch.set_num_threads(1)
    memory = decoder.memory(torch.randn(1, 1280, 7, 7)).detach()
    graph, arrays = graph_from_decoder(decoder), memory.numpy()
    with (
        OrtEngine(EngineModel(onnx=graph.model), EngineOptions(threads=1)) as engine,
        torch.inference_mode(),
    ):
        calls: dict[str, Callable[[], None]] = {}
        for n in LENGTHS:
            calls[f"cache {n}"] = partial(with_cache, decoder, memory, n)
            calls[f"no cache {n}"] = partial(without_cache, decoder, memory, n)
            calls[f"ort {n}"] = partial(on_engine, partial(HostRuns, engine), decoder, arrays, n)
            calls[f"kept {n}"] = partial(on_engine, partial(kept, engine), decoder, arrays, n)
        subjects = {name: subject_from_call(call) for name, call in calls.items()}
        times = benchmark.pedantic(lambda: interleaved(subjects, seconds=SECONDS), rounds=1)
    rows: list[tuple[str, ...]] = [
        (
            "words",
            "PyTorch without cache",
            "with cache",
            "ONNX Runtime with cache",
            "kept by IO binding",
        )
    ]
    for n in LENGTHS:
        row = [1000 * times[f"{kind} {n}"].median for kind in KINDS]
        rows.append((str(n), *(f"{ms:.1f} ms, {ms / n:.2f} a word" for ms in row)))
        benchmark.extra_info[f"ms at {n}"] = row
    print("\n" + "\n".join(table(rows)))
