"""Measures start-up from the shell: `--help` and a first prediction, as whole processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlcv.runtime.images.samples import sample_paths

ENTRY = "from dlcv.cli.infer.app import main; main()"
PHOTO = str(sample_paths()[0])
COMMANDS = {
    "help": ["--help"],
    "classify": ["classify", PHOTO],
    "segment": ["segment", PHOTO, "--out", "-"],
}


@pytest.mark.parametrize("command", COMMANDS)
def bench_start(benchmark: Any, command: str, tmp_path: Path) -> None:
    """Time a whole process, warm file cache."""
    arguments = [sys.executable, "-c", ENTRY, *COMMANDS[command]]
    benchmark.pedantic(
        lambda: subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path),
        rounds=7,
        warmup_rounds=1,
    )
