"""The page of a proof on a GPU, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

REFERENCES = (  # what others reached, for comparison; none of it was measured by dlcv
    ("ResNet-50, TensorRT int8, MLPerf Inference offline, one H200", "94,620 images/s"),
    ("ResNet-50, TensorRT int8, MLPerf Inference offline, one H100", "88,714 images/s"),
    ("ResNet-50, TensorRT int8, MLPerf Inference offline, one A100", "42,121 images/s"),
    ("ResNet-50, Triton with ONNX Runtime, one A100", "about 2,858 images/s"),
    ("ViT-B/16 at 224, fp16, batch 32, FasterTransformer, one A100", "10.0 ms a batch"),
)


def text(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    gpus = ", ".join(report["gpus"]) or "no GPU"
    yield f"# dlcv on {gpus}"
    yield ""
    yield f"Made by `make gpu-proof` on {report['created'][:10]}. What ran, what failed, and how fast it was; all of it is in `gpu-{report['name']}.json`."
    yield ""
    if report["fault"]:
        yield f"**No GPU could be used: {report['fault']}**"
        yield ""
    yield from ("```text", *report["lines"], "```", "")
    yield from _steps(report)
    yield from _tests(report)
    yield from _doctor(report)
    for name, bench in report.get("benchmarks", {}).items():
        yield from _benchmark(name, bench)
    yield from ("## What others reached", "", "References, not measured here:", "")
    yield from ("| | |", "|---|---|", *(f"| {what} | {rate} |" for what, rate in REFERENCES))


def _steps(report: dict[str, Any]) -> Iterator[str]:
    yield from ("## Steps", "", "| step | | seconds | |", "|---|---|---|---|")
    for step in report.get("steps", []):
        state = f"**{step['state']}**" if step["state"] == "failed" else step["state"]
        reason = step["reason"].replace("|", "\\|")[:300]
        yield f"| {step['name']} | {state} | {step['seconds']:.0f} | {reason} |"
    yield ""


def _tests(report: dict[str, Any]) -> Iterator[str]:
    counts = ", ".join(
        f"{count} {state}" for state, count in report.get("tests", {}).items() if count
    )
    yield from ("## Tests that need a GPU", "", f"{counts or 'they did not run'}.", "")
    yield from (f"- {test}" for test in report.get("failed tests", []))
    yield ""


def _doctor(report: dict[str, Any]) -> Iterator[str]:
    yield from ("## Each engine, `dlcv-infer doctor --prove`", "")
    yield from ("| engine | precision | works | images/s | batch | |", "|---|---|---|---|---|---|")
    for row in report.get("doctor", []):
        works = "-" if not row["is_available"] else "no" if row["failure"] else "yes"
        said = (row["failure"] or row["ran"]).replace("|", "\\|")
        yield f"| {row['engine']} | {row['precision']} | {works} | {row['images_per_second']:.0f} | {row['batch']} | {said} |"
    yield ""


def _benchmark(name: str, bench: dict[str, Any]) -> Iterator[str]:
    height, width = bench["size"]
    yield from (f"## {name}, random weights, {height}x{width}", "")
    yield from ("| figure | contestant | batch | images/s | p50 ms |", "|---|---|---|---|---|")
    for figure in bench["figures"]:
        ran = bench["contestants"].get(figure["label"], figure["label"])
        rate, middle = figure["images_per_second"], figure["p50_ms"]
        yield f"| {figure['figure']} | {ran} | {figure['batch']} | {rate:.0f} | {middle:.2f} |"
    yield from ("", *(f"- {failure}" for failure in bench["failures"]), "")
