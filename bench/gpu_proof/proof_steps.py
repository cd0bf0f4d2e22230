"""The steps of the proof on a GPU: commands with time limits, most important first; none ends the proof."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET  # our own file, written by pytest
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

INFER = (sys.executable, "-c", "from dlcv.cli.infer.app import main; main()")
EXPORT = (sys.executable, "-c", "from dlcv.cli.export.app import main; main()")
PYTEST = (sys.executable, "-m", "pytest", "-q")
GPU_TESTS = ("tests/runtime/engines/gpu", "tests/runtime/engines/test_uint16.py")
NETWORKS = (  # torchvision's name, image size, batches: the most important first
    ("resnet50", "224x224", "1,64,128"),
    ("vit_b_16", "224x224", "1,32,128"),
    ("deeplabv3_resnet50", "512x512", "1,8"),
)
_TAIL = 40  # lines of a step's output that are kept
_LEAST_SECONDS = 5.0  # with less left, a step is not begun


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command. seconds: its limit. needs_gpu: whether it is passed over without one. needs: a file that an earlier step made."""

    name: str
    command: Sequence[str]
    seconds: float
    needs_gpu: bool = True
    needs: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a step. state: passed, failed or passed over. reason: why it is not passed. tail: its last lines."""

    name: str
    command: str
    state: str
    seconds: float = 0.0
    reason: str = ""
    tail: tuple[str, ...] = ()


def run(step: Step, *, left: float, has_gpu: bool) -> Outcome:
    """Run a step within its limit and what is left of the budget, in seconds."""
    command = " ".join(step.command).replace(sys.executable, "python")
    if step.needs_gpu and not has_gpu:
        return Outcome(
            name=step.name, command=command, state="passed over", reason="no GPU can be used"
        )
    if step.needs is not None and not step.needs.exists():
        return Outcome(
            name=step.name,
            command=command,
            state="passed over",
            reason=f"{step.needs.name} was not made",
        )
    if left < _LEAST_SECONDS:
        return Outcome(
            name=step.name, command=command, state="passed over", reason="no time was left"
        )
    start = time.monotonic()
    output, reason = _ran(step.command, min(step.seconds, left))
    lines = output.decode(errors="replace").splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Outcome(
        name=step.name,
        command=command,
        state="failed" if reason else "passed",
        seconds=time.monotonic() - start,
        reason=f"{reason}: {said}" if reason and said else reason,
        tail=tuple(lines[-_TAIL:]),
    )


def _ran(command: Sequence[str], limit: float) -> tuple[bytes, str]:
    """Run a command; return its output and why it failed, "" where it did not. Past the limit, its children end as well."""
    with tempfile.TemporaryFile() as said:  # not a pipe: a child that lives on would hold it open
        try:
            process = subprocess.Popen(
                command,
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as e:
            return b"", str(e)
        try:
            code = process.wait(timeout=limit)
            reason = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            reason = f"it ran past {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return said.read(), reason


def steps(folder: Path, samples: Path, *, engines: Sequence[str]) -> Iterator[Step]:
    """Yield the steps. folder: for what they write. samples: a folder of photos. engines: for GPUs, that are available."""
    smi = "--query-gpu=name,driver_version,memory.total,compute_cap,clocks.sm"
    yield Step(
        name="machine", command=("nvidia-smi", smi, "--format=csv"), seconds=20, needs_gpu=False
    )
    proof = ("doctor", "--prove", "--json", str(folder / "doctor.json"))
    yield Step(name="doctor", command=(*INFER, *proof), seconds=120, needs_gpu=False)
    report = (f"--junitxml={folder / 'tests.xml'}", "-p", "no:cacheprovider")
    yield Step(name="tests", command=(*PYTEST, *GPU_TESTS, *report), seconds=200)
    for engine in ("ort", *engines):
        for task in ("classify", "segment"):
            out = (
                "--out",
                str(folder / f"{task}-{engine}"),
                "--engine",
                engine,
                "--precision",
                "fp32",
            )
            yield Step(
                name=f"{task} {engine}", command=(*INFER, task, str(samples), *out), seconds=60
            )
    for engine, target in (("trt", "trt"), ("trt-rtx", "rtx")):
        if engine in engines:
            yield from _plan(folder, samples, engine=engine, target=target)
    for network, size, batches in NETWORKS:
        yield from _network(folder, samples, network=network, size=size, batches=batches)


def _plan(folder: Path, samples: Path, *, engine: str, target: str) -> Iterator[Step]:
    """Yield the steps that put a plan into a copy of a built-in bundle, and classify with that copy."""
    bundle = folder / f"bundle-{target}"
    program = (
        "import shutil, sys; from dlcv.runtime.bundle.ready import ready_folder\n"
        "shutil.copytree(ready_folder('imagenet-lite0'), sys.argv[1])"
    )
    copy = (sys.executable, "-c", program, str(bundle))
    yield Step(name=f"copy bundle for {target}", command=copy, seconds=20)
    plan = ("engine", str(bundle), "--target", target, "--into-bundle")
    yield Step(name=f"export engine {target}", command=(*EXPORT, *plan), seconds=60, needs=bundle)
    out = ("--engine", engine, "--out", str(folder / f"planned-{target}"))
    command = (*INFER, "classify", str(samples), "--model", str(bundle), *out)
    yield Step(name=f"classify with plan {target}", command=command, seconds=60, needs=bundle)


def _network(
    folder: Path, samples: Path, *, network: str, size: str, batches: str
) -> Iterator[Step]:
    """Yield the steps that measure a network with random weights against PyTorch, eager and compiled, in fp16."""
    bundle, source = folder / network, f"torchvision:{network}"
    export = ("bundle", source, "--random", "--size", size, "-o", str(bundle))
    yield Step(name=f"export {network}", command=(*EXPORT, *export), seconds=90)
    half = ("precision", str(bundle), "--to", "fp16", "--calibrate", str(samples))
    yield Step(name=f"fp16 {network}", command=(*EXPORT, *half), seconds=90, needs=bundle)
    bench = ("bench", str(bundle), "--precision", "fp16", "--batches", batches, "--seconds", "2")
    torch = ("--checkpoint", source, "--random", "--out", str(folder / f"bench-{network}"))
    yield Step(name=f"bench {network}", command=(*INFER, *bench, *torch), seconds=150, needs=bundle)


def tests_of(file: Path) -> tuple[dict[str, int], list[str]]:
    """Return pytest's counts, and the failed tests with the first line of their reasons, from its JUnit XML."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    try:
        cases = list(ET.parse(file).iter("testcase"))  # our own file
    except (OSError, ET.ParseError):
        return counts, []
    for case in cases:
        fault = next((e for e in case if e.tag in ("failure", "error")), None)
        if fault is not None:
            counts["failed"] += 1
            message = (fault.get("message") or "").splitlines()[:1]
            failed.append(": ".join([f"{case.get('classname')}.{case.get('name')}", *message]))
        elif any(e.tag == "skipped" for e in case):
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts, failed
