"""File to file against the bare engine: how much of the engine's speed is left for a user.

Each round times both, one after the other, so that a noisy machine slows both: the bare engine on
the same pixels in memory, in full batches of one shape, and the whole job from files to a results folder.

    make bench                                      # all benchmarks
    pytest bench/bench_file_to_file.py -s           # these, with the ratios printed
"""

import itertools
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcv
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.sources import expand_inputs
from dlcv.runtime.results import WriteOptions
from dlcv.runtime.results.folder import FolderWriter
from dlcv.runtime.running.job import run_job
from dlcv.runtime.running.pipeline import windows

ROUNDS = 3
TASKS = {
    # task: built-in bundle, outputs, what is written
    "classify": ("imagenet-lite0", ["probabilities"], WriteOptions()),
    "segment": ("camvid-lraspp", ["mask"], WriteOptions(masks=True)),
}


def batches(predictor: Any, photos: list[str]) -> list[np.ndarray]:
    """Decode all photos and put those of one shape into batches."""
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    for photo in photos:
        pixels = load_pixels(photo, predictor.preprocessing).pixels
        by_shape[pixels.shape].append(pixels)
    return [np.stack(b) for all_ in by_shape.values() for b in windows(all_, predictor.batch_size)]


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.parametrize("task", TASKS)
def bench_file_to_file(benchmark: Any, photos: list[str], tmp_path: Path, task: str) -> None:
    """Print images/s of both, and the median of the rounds' ratios."""
    bundle, outputs, options = TASKS[task]
    with dlcv.load(bundle, engine="ort", outputs=outputs) as predictor:
        in_memory = batches(predictor, photos)
        bare: list[float] = []
        folders = (tmp_path / str(number) for number in itertools.count())

        def bare_engine() -> None:
            for batch in in_memory:
                predictor.run(batch)

        def setup() -> Any:
            bare.append(seconds(bare_engine))
            return (next(folders),), {}

        def job(folder: Path) -> None:
            writer = FolderWriter(folder, options, run=predictor.description())
            summary = run_job(predictor, expand_inputs(photos), writer)
            assert summary.answered == len(photos)

        benchmark.pedantic(job, setup=setup, rounds=ROUNDS, warmup_rounds=1)
        engine, batch_size = str(predictor.engine.info), predictor.batch_size
    whole = benchmark.stats.stats.data
    ratios = [b / w for b, w in zip(bare[1:], whole, strict=True)]
    info = {
        "bare engine images/s": round(len(photos) / statistics.median(bare[1:]), 1),
        "file to file images/s": round(len(photos) / statistics.median(whole), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "engine": engine,
        "batch": batch_size,
    }
    benchmark.extra_info.update(info)
    print(f"\n{task} ({bundle}):", ", ".join(f"{key} {value}" for key, value in info.items()))
    shutil.rmtree(tmp_path)
