"""Bundles and parity described in plain text, for terminals and reports."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.bundle.manifest import Manifest
    from dlcv.runtime.bundle.schema import OutputParity, Preprocessing, Variant

_WIDTH = 100
_KEPT_SHOWN = 6


def text_from_bundle(bundle: Bundle) -> str:
    """Return what a bundle is, a fact a line."""
    manifest = bundle.manifest
    total = sum(entry.size_bytes for entry in manifest.files.values())
    facts = [
        ("bundle", f"{manifest.name} ({manifest.task}), {total / 1e6:.1f} MB, every file verified"),
        ("path", str(bundle.path)),
        ("about", manifest.description),
        ("licence", manifest.licence),
        *_classes(manifest),
        ("images", _preprocessing(manifest.preprocessing)),
        *((m.name, f"{m.value:.4f} on {m.data}") for m in manifest.metrics),
        ("source", f"{manifest.provenance.source}, {manifest.provenance.created}"),
        ("made with", ", ".join(f"{k} {v}" for k, v in manifest.provenance.libraries.items())),
    ]
    lines = [line for name, value in facts for line in _fact(name, value)]
    for name, graph in manifest.graphs.items():
        lines += _fact(f"graph {name}", "; ".join(map(str, graph.inputs)))
        for spec in graph.outputs:
            lines += _fact("  gives", str(spec))
        for precision, variant in graph.variants.items():
            size = manifest.files[variant.file].size_bytes
            lines += _fact(
                f"  {precision}", f"{variant.file}, {size / 1e6:.1f} MB, opset {variant.opset}"
            )
            lines += [f"    {line}" for line in parity_table(variant.parity.outputs)]
            report = variant.parity
            lines.append(f"    {report.engine} against {report.reference}, on {report.images}")
            lines += [f"    {line}" for line in variant_lines(variant)]
    return "\n".join(lines) + "\n"


def _classes(manifest: Manifest) -> list[tuple[str, str]]:
    names = [c.name for c in manifest.classes]
    return [("classes", f"{len(names)}: {', '.join(names)}")] if names else []


def variant_lines(variant: Variant) -> list[str]:
    """Return what a variant scored where, what it costs against fp32, and which nodes stayed in fp32."""
    lines = [f"{scored.metric} {scored.value:.4f} on {scored}" for scored in variant.deployed]
    if accuracy := variant.accuracy:
        change = (
            round(100 * (accuracy.value - accuracy.baseline), 2) + 0.0
        )  # no minus in front of 0
        lines.append(
            f"{accuracy.metric} {accuracy.value:.4f}, fp32 {accuracy.baseline:.4f}: {change:+.2f} points "
            f"(budget {100 * accuracy.budget:g}) on {accuracy.images} images of {accuracy.data}"
        )
    if variant.kept:
        names = ", ".join(variant.kept[:_KEPT_SHOWN])
        more = len(variant.kept) - _KEPT_SHOWN
        lines.append(f"in fp32: {names}" + (f" and {more} more" if more > 0 else ""))
    return lines


def metrics_table(manifest: Manifest) -> str:
    """Return the model's metrics and what its variants scored on engines as a table in Markdown."""
    rows = [f"| {m.name} | {m.value:.4g} | {m.data} |" for m in manifest.metrics]
    for precision, variant in manifest.graphs[manifest.main_graph].variants.items():
        rows += [
            f"| {scored.metric}, {precision} graph | {scored.value:.4g} | {scored} |"
            for scored in variant.deployed
        ]
    if not rows:
        return "None were measured on these weights."
    return "\n".join(["| metric | value | measured on |", "|---|---|---|", *rows])


def parity_table(outputs: dict[str, OutputParity]) -> list[str]:
    """Return differences from the reference as the lines of a table."""
    rows = [("output", "max difference", "mean", "cosine", "agreement")]
    rows += [
        (
            name,
            f"{parity.max_difference:.1e}",
            f"{parity.mean_difference:.1e}",
            "" if parity.cosine is None else f"{parity.cosine:.7f}",
            "" if parity.agreement is None else f"{parity.agreement:.5f}",
        )
        for name, parity in outputs.items()
    ]
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _fact(name: str, value: Any) -> list[str]:
    lines = textwrap.wrap(str(value), _WIDTH - 14) or [""]
    return [f"{name:<13} {lines[0]}", *(f"{'':<13} {line}" for line in lines[1:])]


def _preprocessing(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.size
    if preprocessing.resize == "longest_side":
        return (
            f"any size; resized to {max(height, width)} pixels on the longer side, "
            f"both sides a multiple of {preprocessing.multiple} ({preprocessing.resample})"
        )
    how = {"stretch": "stretched to", "center_crop": "central crop at"}[preprocessing.resize]
    return f"{how} {height}x{width} ({preprocessing.resample})"
