"""The running model: whole jobs, one image at a time, and many threads at once.

    pytest bench/bench_running.py -s
    DLCV_BEFORE=../dlcv-before/src pytest bench/bench_running.py -s    # jobs in turns with another checkout's

Three figures, each with both sides timed in turns:

- jobs: `dlcv-infer classify` and `segment` as whole processes, files to a results folder, against another checkout.
- one image: what `predictor(image)` takes beside decoding and `engine.infer`, from one thread.
- eight threads: images/s of eight threads that each ask for one image at a time, as a share of `stream`'s.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import dlcv
from dlcv.runtime import Predictor, open_bundle
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.images import load_pixels

ROUNDS = 5
CALLS, CALL_ROUNDS = 20, 15
THREADS = 8
BUNDLES = {"classify": ("imagenet-lite0", "probabilities"), "segment": ("camvid-lraspp", "mask")}
NOW = Path(dlcv.__file__).parents[1]
BEFORE = os.environ.get("DLCV_BEFORE")


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def job(task: str, photos: Iterable[str], out: Path, *, source: Path) -> None:
    """Run a whole `dlcv-infer` of a checkout."""
    program = "from dlcv.cli.infer.app import main; main()"
    subprocess.run(
        [sys.executable, "-c", program, task, "-", "--engine", "ort", "--out", str(out)],
        input="\n".join(photos),
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("task", BUNDLES)
@pytest.mark.skipif(BEFORE is None, reason="DLCV_BEFORE names no other checkout's src folder")
def bench_jobs(benchmark: Any, photos: list[str], tmp_path: Path, task: str) -> None:
    """Print images/s of both checkouts, and the median of the rounds' ratios."""
    checkouts = {"before": Path(str(BEFORE)).resolve(), "now": NOW}
    folders = (tmp_path / str(number) for number in itertools.count())
    times: dict[str, list[float]] = {name: [] for name in checkouts}

    def turns() -> None:
        for name in checkouts if len(times["now"]) % 2 else reversed(checkouts):
            folder, source = next(folders), checkouts[name]
            times[name].append(seconds(partial(job, task, photos, folder, source=source)))

    benchmark.pedantic(turns, rounds=ROUNDS, warmup_rounds=1)
    report(benchmark, task, times, images=len(photos))


@pytest.mark.parametrize("task", [*BUNDLES, "no work"])
def bench_one_image(benchmark: Any, photos: list[str], task: str) -> None:
    """Print the milliseconds that a call takes beside decoding and the engine; "no work": the engine costs nothing.

    Each side is called some times in a row, as programs do: a thread that takes turns with another finds cold caches.
    """
    bundle, output = BUNDLES.get(task, BUNDLES["classify"])
    load = free_model if task == "no work" else dlcv.load
    with load(bundle, engine="ort", outputs=[output]) as model:
        photo = photos[0]
        extra: list[float] = []

        def parts() -> None:
            pixels = load_pixels(photo, model.preprocessing).pixels
            model.engine.infer({"image": pixels[None]})

        def turns() -> None:
            sides = {"parts": parts, "call": lambda: model(photo)}
            order = list(sides) if len(extra) % 2 else list(reversed(sides))
            middle = {name: statistics.median(times(sides[name])) for name in order}
            extra.append(middle["call"] - middle["parts"])

        benchmark.pedantic(turns, rounds=CALL_ROUNDS, warmup_rounds=1)
    low, middle, high = (1e3 * x for x in statistics.quantiles(extra[1:], n=4))
    benchmark.extra_info["ms"] = middle
    print(f"\n{task}, one image: {middle:.3f} ms more (quartiles {low:.3f} to {high:.3f})")


def times(function: Callable[[], Any]) -> list[float]:
    """Return the seconds of calls in a row; the first ones are not counted."""
    return [seconds(function) for _ in range(CALLS + 3)][3:]


def free_model(bundle: str, *, engine: str, outputs: list[str]) -> Predictor:
    """Load a bundle on an engine that answers at once with zeros."""
    opened = open_bundle(bundle)
    specs = [spec for spec in opened.graph().outputs if spec.name in outputs]
    graph = msgspec.structs.replace(opened.graph(), outputs=tuple(specs))
    zeros = {spec.name: np.zeros([1, *map(int, spec.shape[1:])], spec.dtype) for spec in specs}
    return Predictor(opened, FakeEngine(graph, lambda _: zeros))


@pytest.mark.parametrize("task", BUNDLES)
def bench_eight_threads(benchmark: Any, photos: list[str], task: str) -> None:
    """Print images/s of eight threads and of a stream, and the median of the rounds' ratios."""
    bundle, output = BUNDLES[task]
    times: dict[str, list[float]] = {"stream": [], "threads": []}
    with (
        dlcv.load(bundle, engine="ort", outputs=[output]) as model,
        ThreadPoolExecutor(THREADS) as pool,
    ):

        def turns() -> None:
            times["stream"].append(seconds(lambda: list(model.stream(photos))))
            times["threads"].append(seconds(lambda: list(pool.map(model, photos))))

        benchmark.pedantic(turns, rounds=ROUNDS, warmup_rounds=1)
    report(benchmark, f"{task}, {THREADS} threads", times, images=len(photos))


def report(benchmark: Any, what: str, times: dict[str, list[float]], *, images: int) -> None:
    """Print images/s of two sides, and how many times as fast the second was; the first round is a warm-up."""
    (first, theirs), (second, ours) = ((name, values[1:]) for name, values in times.items())
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    ratio = statistics.median(ratios)
    benchmark.extra_info.update({"ratio": ratio, "ratios": ratios})
    speeds = ", ".join(
        f"{name} {images / statistics.median(values):.1f} images/s"
        for name, values in ((first, theirs), (second, ours))
    )
    print(f"\n{what}: {speeds}; ratio {ratio:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
