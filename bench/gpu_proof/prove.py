"""Proves dlcv on a machine with an NVIDIA GPU, in one command and nine minutes, and writes a page of it.

    make gpu-proof
    python bench/gpu_proof/prove.py --out docs/benchmarks --minutes 9
    python bench/gpu_proof/prove.py --wheels FOLDER     # install what is in a folder of wheels first, without a network

Runs the GPU tests, `dlcv-infer doctor --prove`, the command line on every engine for GPUs against `ort`, engines made ahead of
time, and benchmarks against PyTorch, eager and compiled, in fp16. A part that is missing or fails is written down and the rest goes
on. `gpu-NAME.json` and `gpu-NAME.md` are written anew after each step. Exit code 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import proof_page
from PIL import Image
from proof_steps import Outcome, Step, run, steps, tests_of

WHEELS = ("onnxruntime-gpu", "cuda-python", "tensorrt", "tensorrt-rtx")


def installed_from(folder: Path) -> Iterator[Step]:
    """Yield the steps that install engines from a folder of wheels: those that are there."""
    pip = (sys.executable, "-m", "pip")
    for name in WHEELS:
        if not list(folder.glob(f"{name.replace('-', '_')}-*")):
            continue
        if name == "onnxruntime-gpu":  # it would share a module with the other
            remove = (*pip, "uninstall", "-y", "onnxruntime")
            yield Step(name="uninstall onnxruntime", command=remove, seconds=60, needs_gpu=False)
        command = (*pip, "install", "--no-index", "--find-links", str(folder), name)
        yield Step(name=f"install {name}", command=command, seconds=120, needs_gpu=False)


def missing_from(folder: Path) -> list[Outcome]:
    """Return an outcome for each engine that a folder of wheels lacks."""
    return [
        Outcome(
            name=f"install {name}", command="", state="passed over", reason=f"no wheel in {folder}"
        )
        for name in WHEELS
        if not list(folder.glob(f"{name.replace('-', '_')}-*"))
    ]


def answers(folder: Path, engine: str) -> list[Outcome]:
    """Compare the answers of an engine with those of `ort`."""
    try:
        return [_classes(folder, engine), _masks(folder, engine)]
    except (OSError, ValueError, KeyError) as e:
        name, reason = f"answers of {engine}", f"not there: {e}"
        return [Outcome(name=name, command="", state="failed", reason=reason)]


def _classes(folder: Path, engine: str) -> Outcome:
    ours, theirs = (
        [
            json.loads(line)
            for line in (folder / f"classify-{e}" / "results.jsonl").read_text().splitlines()
        ]
        for e in (engine, "ort")
    )
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(a["index"] == b["index"] for a, b in pairs)
    most = max(abs(a["probability"] - b["probability"]) for a, b in pairs)
    words = f"{same} of {len(pairs)} classes as of ort, probabilities within {most:.1e}"
    state = "passed" if same == len(pairs) and most < 1e-2 else "failed"
    return Outcome(name=f"classes of {engine}", command="", state=state, reason=words)


def _masks(folder: Path, engine: str) -> Outcome:
    files = sorted((folder / f"segment-{engine}" / "masks").glob("*.png"))
    shares = [
        float(np.mean(_pixels(file) == _pixels(folder / "segment-ort" / "masks" / file.name)))
        for file in files
    ]
    words = f"{len(shares)} masks, at least {min(shares):.2%} of the pixels as of ort"
    state = "passed" if min(shares) > 0.99 else "failed"
    return Outcome(name=f"masks of {engine}", command="", state=state, reason=words)


def _pixels(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image)


def slug(name: str) -> str:
    """Return a GPU's name for a file, such as h100-80gb-hbm3 of "NVIDIA H100 80GB HBM3"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def facts() -> dict[str, Any]:
    """Return machine, GPUs and versions, in a process of its own: engines may be installed meanwhile."""
    program = (
        "import json; from dlcv.runtime.measure.doctor import doctor_lines\n"
        "from dlcv.runtime.machine.gpu import driver\n"
        "from dlcv.runtime.engines import why_unavailable\n"
        "found = driver(); names = ('cuda', 'trt', 'trt-rtx')\n"
        "print(json.dumps({'lines': doctor_lines(), 'fault': found.fault, 'gpus': [str(g.name) for g in found.gpus],\n"
        "  'engines': [n for n in names if why_unavailable(n) is None]}))"
    )
    fault = "dlcv does not start"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        fault = (done.stderr.strip().splitlines() or [fault])[-1]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return {"lines": [], "fault": fault, "gpus": [], "engines": []}
    return found


def linked(samples: Path, folder: Path) -> Path:
    """Return a folder with each sample four times: calibration takes 16 photos at least."""
    folder.mkdir()
    for number in range(4):
        for file in sorted(samples.glob("*.jpg")):
            (folder / f"{number}-{file.name}").symlink_to(file)
    return folder


def write(report: dict[str, Any], out: Path, name: str) -> None:
    """Write JSON and page, each whole or not at all."""
    for suffix, text in (
        (".json", json.dumps(report, indent=1).replace(str(Path.home()), "~")),
        (".md", proof_page.text(report).replace(str(Path.home()), "~")),
    ):
        temporary = out / f".gpu-{name}{suffix}.new"
        temporary.write_text(text)
        temporary.replace(out / f"gpu-{name}{suffix}")


def gathered(folder: Path, report: dict[str, Any]) -> None:
    """Add to the report what the steps wrote."""
    report["tests"], report["failed tests"] = tests_of(folder / "tests.xml")
    report["doctor"] = _json(folder / "doctor.json") or []
    benches = {path.parent.name: _json(path) for path in sorted(folder.glob("bench-*/bench.json"))}
    report["benchmarks"] = {
        name.removeprefix("bench-"): bench for name, bench in benches.items() if bench
    }


def _json(file: Path) -> Any:
    """Return what a step wrote, or None where it is missing or cut off."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def main() -> int:
    """Run the proof; return 1 when anything failed."""
    parser = argparse.ArgumentParser(description="Prove dlcv on this machine's NVIDIA GPU.")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install first")
    parser.add_argument("--steps", help="only these, such as machine,doctor")
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * o.minutes
    outcomes: list[Outcome] = []
    if o.wheels:
        outcomes += missing_from(o.wheels)
        outcomes += [
            run(s, left=end - time.monotonic(), has_gpu=True) for s in installed_from(o.wheels)
        ]
    known = facts()
    has_gpu = known["fault"] is None
    name = slug(known["gpus"][0]) if known["gpus"] else "none"
    report: dict[str, Any] = {
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **known,
    }
    samples = Path(__file__).resolve().parents[2] / "runtime" / "samples"
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        photos = linked(samples, folder / "photos")
        for step in steps(folder, photos, engines=known["engines"]):
            if o.steps and step.name.split()[0] not in o.steps.split(","):
                continue
            print(f"{step.name} ...", flush=True)
            outcomes.append(run(step, left=end - time.monotonic(), has_gpu=has_gpu))
            if step.name.startswith("segment ") and not step.name.endswith(" ort"):
                outcomes += answers(folder, step.name.split()[1])
            gathered(folder, report)
            report["steps"] = [asdict(outcome) for outcome in outcomes]
            write(report, o.out, name)
    failed = [f"{x.name}: {x.reason}" for x in outcomes if x.state == "failed"]
    failed += [f"test {test}" for test in report.get("failed tests", [])]
    failed += [] if has_gpu else [f"no GPU: {known['fault']}"]
    print("\n".join(["", f"page: {o.out / f'gpu-{name}.md'}", *(failed or ["nothing failed"])]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
