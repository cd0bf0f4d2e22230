"""How long the first answer takes, and how much memory a run needs: whole processes, in turns.

    python bench/start.py --rounds 7 --out docs/benchmarks/start.md

Start: one sample photo through each command; with an empty cache (networks are compiled, and `auto` finds out what is fastest), and
as on every later run. Memory: the sample photos, linked many times, at batch 1 and 8; peak resident memory as the kernel
counts it, which includes shared libraries. The files are in the page cache from a run that does not count.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.machine.system import installed_version, machine_name

DLCV = (sys.executable, "-c", "from dlcv.cli.infer.app import main; main()")
MODEL = (
    Path(__file__).resolve().parents[1] / "runtime" / "bundles" / "imagenet-lite0" / "model.onnx"
)
PLAIN = f"""
import sys, numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession({str(MODEL)!r})
image = numpy.asarray(Image.open(sys.argv[1]).convert("RGB").resize((224, 224)))
print(session.run(["probabilities"], {{"image": image[None]}})[0].argmax())
"""
FP32 = ("--precision", "fp32")
INT8 = ("--precision", "int8")
STARTS: dict[str, tuple[str, ...]] = {
    "script around ONNX Runtime": (),
    "`classify`": ("classify",),
    "`classify --engine ort --precision fp32`": ("classify", "--engine", "ort", *FP32),
    "`classify --engine openvino --precision fp32`": ("classify", "--engine", "openvino", *FP32),
    "`classify --engine openvino --precision int8`": ("classify", "--engine", "openvino", *INT8),
    "`segment`": ("segment",),
    "`embed`": ("embed",),
}
MEMORY: dict[str, tuple[int, tuple[str, ...]]] = {  # name: how often the samples are linked, command
    "`classify`, `ort` fp32": (30, ("classify", "--engine", "ort", *FP32)),
    "`classify`, `openvino` int8": (30, ("classify", "--engine", "openvino", *INT8)),
    "`segment`, `ort` fp32": (6, ("segment", "-m", "camvid-lraspp", "--engine", "ort", *FP32)),
    "`segment`, `openvino` fp32": (6, ("segment", "-m", "camvid-lraspp", "--engine", "openvino", *FP32)),
}  # fmt: skip
BATCHES = (1, 8)


@dataclass
class Runs:
    """What processes took: seconds on the clock, peak memory in MB."""

    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def add(self, command: list[str], cache: Path) -> None:
        """Run a process to its end."""
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"DLCV_CACHE": str(cache)},
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        self.seconds.append(time.perf_counter() - start)
        self.megabytes.append(used.ru_maxrss / 1024)

    def text(self) -> str:
        """Return the median of the seconds, and their spread."""
        return f"{median(self.seconds):.2f} ({min(self.seconds):.2f} to {max(self.seconds):.2f})"


def started(rounds: int, folder: Path) -> dict[str, tuple[Runs, Runs]]:
    """Time the first answer of each command: with an empty cache, and after that."""
    photo = str(sample_paths()[0])
    runs = {name: (Runs(), Runs()) for name in STARTS}
    for number in range(rounds + 1):  # the first fills the page cache
        for name, arguments in STARTS.items():
            out = ("--out", "-") if arguments[:1] == ("segment",) else ()
            plain = [sys.executable, "-c", PLAIN, photo]
            command = [*DLCV, *arguments, photo, *out] if arguments else plain
            shutil.rmtree(folder / "cache", ignore_errors=True)
            for kept in (False, True):
                (runs[name][kept] if number else Runs()).add(command, folder / "cache")
    return runs


def remembered(rounds: int, folder: Path) -> dict[str, dict[int, Runs]]:
    """Run each command over many photos at each batch size."""
    runs = {name: {batch: Runs() for batch in BATCHES} for name in MEMORY}
    for number in range(rounds):
        for name, (times, arguments) in MEMORY.items():
            for batch in BATCHES[:: 1 if number % 2 else -1]:
                photos, out = folder / f"photos-{times}", folder / "out"
                if not photos.exists():
                    link(photos, times)
                places = (str(photos), "--batch", str(batch), "--out", str(out), "--overwrite")
                runs[name][batch].add([*DLCV, *arguments, *places], folder / "cache")
    return runs


def link(folder: Path, times: int) -> None:
    """Link the samples so many times into a folder."""
    folder.mkdir()
    for number in range(times):
        for path in sample_paths():
            (folder / f"{number}-{path.name}").symlink_to(path)


def page(starts: dict[str, tuple[Runs, Runs]], memory: dict[str, dict[int, Runs]]) -> str:
    """Return the figures as Markdown."""
    packages = ("dlcv", "numpy", "onnxruntime", "openvino", "typer")
    lines = [
        "## Start and memory",
        "",
        "Seconds of a whole process, from the shell to its end, for one photo: the median, least to most in brackets. With an empty cache, networks are",
        "compiled, and `auto` (no `--engine`) measures what is fastest here.",
        "",
        "| | empty cache | later |",
        "|---|---|---|",
    ]
    for name, (empty, kept) in starts.items():
        lines.append(f"| {name} | {empty.text() if name.startswith('`') else ''} | {kept.text()} |")
    lines += [
        "",
        "Peak memory of a process in MB, and images/s with its start, at two batch sizes: the sample photos, 330 of them for `classify`, 66 for `segment`",
        "(camvid-lraspp). Without `--batch`, dlcv takes 1 for images above 320x320 on a CPU, and for smaller ones what was faster on first use.",
        "",
        "| | batch 1: MB | images/s | batch 8: MB | images/s |",
        "|---|---|---|---|---|",
    ]
    for name, by_batch in memory.items():
        images = MEMORY[name][0] * len(sample_paths())
        cells = [
            f"{median(runs.megabytes):.0f} | {images / median(runs.seconds):.0f}"
            for runs in by_batch.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {installed_version(name)}" for name in packages)
    ran = f"{machine_name()}; {time.strftime('%Y-%m-%d')}; python {platform.python_version()}"
    lines += ["", f"{ran}, {versions}. `python {' '.join(sys.argv)}`", ""]
    return "\n".join(lines)


parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--out", type=Path)
o = parser.parse_args()
with tempfile.TemporaryDirectory() as where:
    text = page(started(o.rounds, Path(where)), remembered(max(1, o.rounds // 2), Path(where)))
print(text)
if o.out:
    o.out.write_text(text)
