"""Measures peak memory after 300 and after 1,200 images (the same photos, repeated) in a fresh process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import resource, sys
from pathlib import Path
import dlcv
from dlcv.runtime.running.job import run_job
from dlcv.runtime.images.sources import expand_inputs
from dlcv.runtime.results import WriteOptions
from dlcv.runtime.results.folder import FolderWriter
bundle, folder, repeats, output, masks = sys.argv[1:6]
photos = sys.stdin.read().split("\\n")
predictor = dlcv.load(bundle, engine="ort", outputs=[output])
writer = FolderWriter(Path(folder), WriteOptions(masks=masks == "masks"), run=predictor.description())
run_job(predictor, expand_inputs(photos * int(repeats)), writer)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
TASKS = {
    "classify": ("imagenet-lite0", "probabilities", "-"),
    "segment": ("camvid-lraspp", "mask", "masks"),
}


def peak_megabytes(task: str, photos: list[str], folder: Path, *, repeats: int) -> float:
    bundle, output, masks = TASKS[task]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, bundle, str(folder), str(repeats), output, masks],
        input="\n".join(photos),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout)


@pytest.mark.parametrize("task", TASKS)
def bench_memory(benchmark: Any, photos: list[str], tmp_path: Path, task: str) -> None:
    """Print peak resident memory for both lengths."""
    few = peak_megabytes(task, photos, tmp_path / "few", repeats=1)
    many = benchmark.pedantic(
        lambda: peak_megabytes(task, photos, tmp_path / "many", repeats=4), rounds=1
    )
    benchmark.extra_info.update({"MB after 300": few, "MB after 1200": many})
    print(
        f"\n{task}: peak resident memory {few:.0f} MB after 300 images, {many:.0f} MB after 1,200"
    )
