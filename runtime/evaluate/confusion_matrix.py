"""Writes confusion matrices as plots or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcv.runtime.errors import InputError
from dlcv.runtime.machine.atomic_files import write_atomically
from dlcv.runtime.machine.system import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.runtime.evaluate.metrics import Counts

_MOST_NUMBERS = 15  # with more classes, cells are too small for numbers
_DOTS_PER_INCH = 150


def require_confusion_file(path: Path) -> None:
    """Check in advance what `save_confusion` requires.

    Raises:
        InputError: the name says neither CSV nor PNG, or matplotlib is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".png"}:
        raise InputError(f"a confusion matrix is written as .csv or .png, not as {path.name}")
    if suffix == ".png":
        require_matplotlib()


def save_confusion(path: Path, matrix: Counts, *, names: Sequence[str], title: str) -> None:
    """Write a confusion matrix, int64 (classes, classes) with rows = labels, as CSV or PNG by the file's suffix.

    CSV holds the counts, PNG shows `confusion_figure`.

    Raises:
        InputError: as `require_confusion_file`.
        OutputError: the file cannot be written.
    """
    require_confusion_file(path)
    if path.suffix.lower() == ".csv":
        text = _csv(matrix, names)
        write_atomically(path, lambda file: file.write(text.encode()))
    else:
        figure = confusion_figure(matrix, names, title=title)
        write_atomically(path, lambda f: figure.savefig(f, format="png", dpi=_DOTS_PER_INCH))


def confusion_figure(matrix: Counts, names: Sequence[str], *, title: str) -> Figure:
    """Plot a confusion matrix, int64 (classes, classes) with rows = labels, normalised per row.

    A row without labels is left empty.
    """
    from matplotlib.figure import Figure

    counts = matrix.astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    count = len(names)
    side = max(5.0, 3.0 + count * (0.5 if count <= _MOST_NUMBERS else 0.19))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    ticks, size = range(count), 10 if count <= _MOST_NUMBERS else 7
    axes.set_xticks(ticks, names, rotation=90, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if count <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if not np.isnan(share):
                ink = "black" if share > 0.5 else "white"
                axes.text(
                    column, row, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=8
                )
    figure.colorbar(image, label="share of the true class, 0 to 1", shrink=0.8)
    return figure


def _csv(matrix: Counts, names: Sequence[str]) -> str:
    """Return CSV text with labels as rows and predictions as columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *names])
    for name, row in zip(names, matrix.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()
