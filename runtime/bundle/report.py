"""Bundles and parity reports as plain text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcv.runtime.bundle.variants import MADE_FOR

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.bundle.manifest import Manifest
    from dlcv.runtime.bundle.schema import AnySize, OutputParity, Preprocessing, Variant

_WIDTH = 100  # characters of a line of `text_from_bundle`
_KEPT_SHOWN = 6
_GAP = "  "  # between the columns of a table
_MIN_WRAPPED = 20  # characters of a wrapped column on the narrowest terminal


def text_from_bundle(bundle: Bundle) -> str:
    """Return a description of a bundle, one fact per line."""
    manifest = bundle.manifest
    total = sum(entry.size_bytes for entry in manifest.files.values())
    rows: list[tuple[str, str] | str] = [  # (name, value), or a line that is printed as it is
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
    for name, graph in manifest.graphs.items():
        rows.append((f"graph {name}", "; ".join(map(str, graph.inputs))))
        rows += [("  gives", str(spec)) for spec in graph.outputs]
        for variant_name, variant in graph.variants.items():
            size = manifest.files[variant.file].size_bytes
            about = f"{variant.file}, {size / 1e6:.1f} MB, opset {variant.opset}{_stored(variant)}"
            if variant_name in MADE_FOR:
                about += f", {MADE_FOR[variant_name]}"
            rows.append((f"  {variant_name}", about))
            rows += [f"    {line}" for line in parity_table(variant.parity.outputs)]
            report = variant.parity
            rows.append(f"    {report.engine} against {report.reference}, on {report.images}")
            rows += [f"    {line}" for line in variant_lines(variant)]
        if graph.any_size:
            rows.append(("  any size", any_size_line(manifest, graph.any_size)))
            report = graph.any_size.parity
            rows += [f"    {line}" for line in parity_table(report.outputs)]
            rows.append(f"    {report.engine} against {report.reference}, on {report.images}")
    return "\n".join(_aligned(rows)) + "\n"


def any_size_line(manifest: Manifest, made: AnySize) -> str:
    """Return a line on the graph that resizes by itself."""
    size = manifest.files[made.file].size_bytes
    return (
        f"{made.file}, {size / 1e6:.1f} MB, opset {made.opset}: the {made.variant} graph with the resize inside, for one photo "
        "of any height and width"
    )


def _stored(variant: Variant) -> str:
    return (
        ""
        if variant.weights == "fp32"
        else f", weights stored in {variant.weights}, computed in fp32"
    )


def _aligned(rows: Sequence[tuple[str, str] | str]) -> list[str]:
    names = max(len(row[0]) for row in rows if isinstance(row, tuple))
    lines: list[str] = []
    for row in rows:
        if isinstance(row, tuple):
            lines += table([(row[0].ljust(names), row[1])], width=_WIDTH)
        else:
            lines.append(row)
    return lines


def _classes(manifest: Manifest) -> list[tuple[str, str]]:
    names = [c.name for c in manifest.classes]
    rows = [("classes", f"{len(names)}: {', '.join(names)}")] if names else []
    if manifest.threshold is not None:
        what = "the second class" if manifest.task == "segment" else "a label"
        rows.append(("threshold", f"{what} from a probability of {manifest.threshold:g} (sigmoid)"))
    return rows


def variant_lines(variant: Variant) -> list[str]:
    """Return lines with a variant's recorded scores, its accuracy against fp32, and its nodes in fp32."""
    lines = [f"{scored.metric} {scored.value:.4f} on {scored}" for scored in variant.deployed]
    if accuracy := variant.accuracy:
        change = round(100 * (accuracy.value - accuracy.baseline), 2) + 0.0  # no "-0.00"
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
    """Return the model's metrics, and its variants' scores on engines, as a Markdown table."""
    rows = [f"| {m.name} | {m.value:.4g} | {m.data} |" for m in manifest.metrics]
    for precision, variant in manifest.graphs[manifest.main_graph].variants.items():
        rows += [
            f"| {scored.metric}, {precision} graph | {scored.value:.4g} | {scored} |"
            for scored in variant.deployed
        ]
    if not rows:
        return "None were measured on these weights."
    return "\n".join(["| metric | value | measured on |", "|---|---|---|", *rows])


def card_with_metrics(card: str, manifest: Manifest) -> str:
    """Return a model card with its section of metrics written anew, if it has one."""
    return card_with_section(card, "## Metrics", f"{metrics_table(manifest)}\n\n")


def card_with_section(card: str, title: str, text: str | None) -> str:
    """Return a model card with the text of a section replaced, if it has that section; None removes the section."""
    pattern = rf"^{re.escape(title)}\n.*?(?=^## |\Z)"
    section = "" if text is None else f"{title}\n\n{text}"
    return re.sub(pattern, lambda _: section, card, flags=re.DOTALL | re.MULTILINE)


def parity_table(outputs: dict[str, OutputParity]) -> list[str]:
    """Return the differences from the reference as the lines of a table."""
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


def table(rows: Sequence[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Return rows as lines with aligned columns.

    With a width, in characters, the cells of the last column wrap under their column; without one, each
    row is one line.
    """
    *widths, last = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if width is not None:
        last = max(width - sum(cell + len(_GAP) for cell in widths), _MIN_WRAPPED)
    lines = []
    for *cells, text in rows:
        start = "".join(cell.ljust(w) + _GAP for cell, w in zip(cells, widths, strict=True))
        wrapped = [text] if width is None else _wrap(text, last)
        indents = [start, *[" " * len(start)] * (len(wrapped) - 1)]
        lines += [(a + b).rstrip() for a, b in zip(indents, wrapped, strict=True)]
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def _preprocessing(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.size
    grey = ", as greyscale" if preprocessing.channels == 1 else ""
    if preprocessing.resize == "longest_side":
        return (
            f"any size; resized to {max(height, width)} pixels on the longer side, "
            f"both sides a multiple of {preprocessing.multiple} ({preprocessing.resample}){grey}"
        )
    how = {
        "stretch": "stretched to",
        "center_crop": "central crop at",
        "letterbox": f"fitted, with a border of colour {preprocessing.pad}, into",
    }[preprocessing.resize]
    return f"{how} {height}x{width} ({preprocessing.resample}){grey}"
