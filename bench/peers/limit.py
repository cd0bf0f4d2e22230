"""What this machine could reach at most, and what a job of ours reaches. `python limit.py BUNDLE PHOTOS`.

limit: cores / (CPU seconds a photo of decoding alone + of the engine alone), as if nothing else cost anything and no core ever
waited. Reached: images/s of `run_job` over all the photos into a results folder, in the same process.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import dlcv
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.sources import expand_inputs
from dlcv.runtime.results import WriteOptions
from dlcv.runtime.results.folder import FolderWriter
from dlcv.runtime.running.job import run_job

BATCH = 8


def seconds(work: Callable[[], object], *, times: int) -> tuple[float, float]:
    """Return the CPU time of one call, of all threads of this process together, and its time on the clock."""
    work()
    start, clock = time.process_time(), time.perf_counter()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times, (time.perf_counter() - clock) / times


model = dlcv.load(sys.argv[1], outputs=("probabilities",))
names = [str(path) for path in sorted(Path(sys.argv[2]).glob("*.jpg"))]
some = names[:: max(1, len(names) // 300)]
decoded = [load_pixels(name, model.preprocessing).pixels for name in some[:BATCH]]
batch = np.stack(decoded)
for _ in range(10):
    model.run(batch)
decoding = seconds(lambda: [load_pixels(n, model.preprocessing) for n in some], times=1)[0]
engine, engine_clock = seconds(lambda: model.run(batch), times=60)
each = decoding / len(some) + engine / BATCH
with tempfile.TemporaryDirectory() as folder:
    writer = FolderWriter(
        Path(folder), WriteOptions(), run=model.description(), resume=False, overwrite=True
    )
    start = time.perf_counter()
    summary = run_job(model, expand_inputs(names), writer)
    reached = summary.answered / (time.perf_counter() - start)
cores = len(os.sched_getaffinity(0))
limit = cores / each
report = {
    "engine": model.description()["engine"],
    "precision": model.description()["precision"],
    "cores": cores,
    "decode_cpu_ms": decoding / len(some) * 1e3,
    "engine_cpu_ms": engine / BATCH * 1e3,
    "engine_per_second": BATCH / engine_clock,
    "limit_per_second": limit,
    "reached_per_second": reached,
    "ratio": reached / limit,
}
print(json.dumps(report))
