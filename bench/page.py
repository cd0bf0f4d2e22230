"""Write docs/benchmarks.md and docs/tunings.md from the files in docs/benchmarks; with --measure, measure them first.

python bench/page.py --measure      # make benchmarks: some minutes, on a machine that does nothing else
python bench/page.py                # the page alone, from what was measured before
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dlcv.runtime.engines.tuned import Tuning
from dlcv.runtime.measure.bench import FIGURES, Figure, Report
from dlcv.runtime.measure.plot import save_plot
from dlcv.runtime.measure.tables import tuning_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS / "benchmarks"
NOTE = RESULTS / "note.txt"
PEERS = RESULTS / "peers.md"  # by bench/peers/compare.py
START = RESULTS / "start.md"  # by bench/start.py
TUNINGS = """# Tunings

What `dlcv-infer tune` found on the machines of [benchmarks](benchmarks.md), best first; `--engine auto` takes the first row. The first four ran in the last,
longer rounds too; "busy" is the ratio while a thread decodes photos, as in a folder of images. Made by `bench/page.py`; do not edit.
"""
TITLES = {
    "engine": "Engine only: arrays to arrays",
    "host": "Host to host: decoded pixels in memory to result objects",
    "file": "File to file: photos to result files",
}
HEAD = """# Benchmarks

Made by `make benchmarks` (`bench/page.py`) from the files in [benchmarks/](benchmarks/); do not edit.

FIRST
## Engines

Every table from here on is one run: all engines and baselines take turns, in orders that change, so that whatever else runs on the
machine slows all alike. **Ratios are what to read; absolute figures hold for the machine named, on that day.** "plain ORT" is
`onnxruntime.InferenceSession(model)` with all defaults and `session.run(None, feeds)`; "x plain" is images/s against it, the median of the
rounds' ratios. Before the first call that counts there are two that do not. Times are medians of a call; p99 of few calls is nearly
the slowest one.

| figure | a call is |
|---|---|
| engine only | one batch of arrays through the engine; on a GPU the device's work alone, by CUDA events |
| host to host | the same batch as decoded images: stack, copy, infer, make result objects |
| file to file | a job of two batches (16 photos at least) from JPEG files to a results folder |
"""
GPU = """## On a GPU

PROOFS
`make gpu-proof` proves and measures all of it on a machine with a GPU, in nine minutes ([gpu.md](gpu.md)). By hand:

```sh
pip install '.[gpu,export,plot]'      # or [trt,...], [rtx,...]; see engines.md
dlcv-export bundle torchvision:vit_b_16 --random -o bundles/vit
dlcv-export precision bundles/vit --to fp16 --calibrate photos/
dlcv-infer bench bundles/vit --precision fp16 --checkpoint torchvision:vit_b_16 --random --batches 1,8,32,128 --out report-vit
dlcv-export bundle torchvision:deeplabv3_resnet50 --random --size 512x512 -o bundles/deeplab
dlcv-export precision bundles/deeplab --to fp16 --calibrate photos/
dlcv-infer bench bundles/deeplab --precision fp16 --checkpoint torchvision:deeplabv3_resnet50 --random --batches 1,8,32 --out report-deeplab
cp report-vit/bench.json docs/benchmarks/vit-gpu.json && python bench/page.py
```

PyTorch then runs in fp16 as well, eager and compiled, and is timed by CUDA events like the engines.
"""


@dataclass(frozen=True)
class Case:
    """What to measure. source: exported first with random weights; PyTorch runs beside it."""

    name: str
    batches: str
    source: str | None = None

    def commands(self, bundle: str, out: str) -> list[list[str]]:
        """Return the commands that measure it. out: the output folder."""
        random = ["--checkpoint", self.source, "--random"] if self.source else []
        sizes = ["--batches", self.batches]
        export = ["dlcv-export", "bundle", self.source or "", "--random", "-o", bundle]
        return [
            *([export] if self.source else []),
            ["dlcv-infer", "tune", bundle, *sizes, "--seconds", "20", "--json", f"{out}/tune.json"],
            ["dlcv-infer", "bench", bundle, *sizes, "--seconds", "2", *random, "--out", out],
        ]


CASES = (
    Case("imagenet-lite0", "1,8"),
    Case("voc-deeplab", "1"),
    Case("camvid-lraspp", "1,8"),
    Case("mobilenet-v2", "1,8", source="torchvision:mobilenet_v2"),
)


def measure(cases: Iterable[Case]) -> None:
    """Run every case and keep its JSON."""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            out = f"{folder}/{case.name}-report"
            bundle = f"{folder}/{case.name}" if case.source else case.name
            for command in case.commands(bundle, out):
                run(command)
            for kind in ("bench", "tune"):
                made = Path(out, f"{kind}.json").read_bytes()
                (RESULTS / f"{case.name}.{kind}.json").write_bytes(made)


def run(command: Sequence[str]) -> None:
    """Run a command of dlcv with this Python."""
    program, *arguments = command
    entry = f"from dlcv.cli.{program.removeprefix('dlcv-')}.app import main; main()"
    print("$", *command, flush=True)
    subprocess.run([sys.executable, "-c", entry, *arguments], check=True)


def page() -> str:
    """Return the page, and draw its pictures."""
    first = "\n".join(path.read_text() for path in (PEERS, START) if path.exists())
    sections = [HEAD.replace("FIRST\n", first), NOTE.read_text() if NOTE.exists() else ""]
    for path in sorted(RESULTS.glob("*.bench.json")):
        report = msgspec.json.decode(path.read_bytes(), type=Report)
        name = path.name.removesuffix(".bench.json")
        save_plot(report, DOCS / "images" / f"bench-{name}.png")
        sections += [_section(name, report)]
    return "\n".join([*sections, GPU.replace("PROOFS", _proofs(RESULTS))])


def _proofs(folder: Path) -> str:
    """Return a line for each GPU that `make gpu-proof` ran on."""
    found = []
    for path in sorted(folder.glob("gpu-*.json")):
        report = msgspec.json.decode(path.read_bytes())
        if report["gpus"]:
            states = [step["state"] for step in report.get("steps", [])]
            counts = f"steps: {states.count('passed')} passed, {states.count('failed')} failed"
            page, day = f"benchmarks/{path.stem}.md", report["created"][:10]
            found.append(f"- [{', '.join(report['gpus'])}]({page}), {day}: {counts}")
    return "\n".join([*found, ""]) if found else "Nothing here was measured on a GPU yet."


def tunings() -> str:
    """Return the page of tunings: long tables, for those who want to know."""
    names = [path.name.removesuffix(".tune.json") for path in sorted(RESULTS.glob("*.tune.json"))]
    return "\n".join([TUNINGS, *map(_tuning, names)])


def _section(name: str, report: Report) -> str:
    versions = ", ".join(f"{key} {version}" for key, version in report.versions.items())
    case = next((case for case in CASES if case.name == name), None)
    commands = [" ".join(c) for c in case.commands(name, "report")] if case else []
    height, width = report.size
    lines = [
        f"## {name}\n",
        f"{report.machine}; {report.threads} threads; {report.created[:10]}; {versions}.\n",
        f"Output `{', '.join(report.outputs)}`, images of {height}x{width}.\n",
        "```sh",
        *commands,
        "```\n",
        f"![Latency against throughput](images/bench-{name}.png)\n",
    ]
    for figure in FIGURES:
        rows = [f for f in report.figures if f.figure == figure]
        lines += [f"### {TITLES[figure]}\n", *_markdown(_cells(rows)), ""]
    lines += [f"- {failure}" for failure in report.failures]
    return "\n".join(lines)


def _cells(rows: Sequence[Figure]) -> list[tuple[str, ...]]:
    head = ("engine", "batch", "images/s", "p50 ms", "p90 ms", "p99 ms", "calls", "x plain")
    return [
        head,
        *(
            (
                row.label,
                str(row.batch),
                f"{row.images_per_second:.1f}",
                f"{row.p50_ms:.1f}",
                f"{row.p90_ms:.1f}",
                f"{row.p99_ms:.1f}",
                str(row.calls),
                "" if row.ratio is None else f"{row.ratio:.2f}",
            )
            for row in rows
        ),
    ]


def _tuning(name: str) -> str:
    tuning = msgspec.json.decode((RESULTS / f"{name}.tune.json").read_bytes(), type=Tuning)
    left_out = [f"- left out: {reason}" for reason in tuning.dropped]
    return "\n".join([f"## {name}\n", *_markdown(tuning_table(tuning)), "", *left_out, ""])


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, f"|{'---|' * len(rows[0])}", *body]


def main() -> None:
    """Parse arguments, measure on request, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure first")
    parser.add_argument("--note", help="a sentence on the machine that day, for the page")
    arguments = parser.parse_args()
    if arguments.measure:
        NOTE.unlink(missing_ok=True)
        measure(CASES)
    if arguments.note:
        NOTE.write_text(f"**{arguments.note}**\n")
    (DOCS / "benchmarks.md").write_text(page())
    (DOCS / "tunings.md").write_text(tunings())


if __name__ == "__main__":
    main()
