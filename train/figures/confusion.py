"""Which classes are taken for which others, and how well each segmented class is found."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcv.runtime.errors import OutputError
from dlcv.train.evaluate import answers
from dlcv.train.figures.canvas import new_figure
from dlcv.train.metrics import confusion_matrix_for, predictions_from_outputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from dlcv.train.checkpoint import Checkpoint
    from dlcv.train.data import Dataset
    from dlcv.train.recipe import Recipe

_MOST_NUMBERS = 15  # cells of more classes are too small for a number


def confusion_on(checkpoint: Checkpoint[Recipe], dataset: Dataset) -> Tensor:
    """Return the confusion matrix of a checkpoint, int64 (classes, classes), rows = labels."""
    confusion = confusion_matrix_for(checkpoint.recipe)
    for outputs, labels in answers(checkpoint, dataset):
        confusion.update(predictions_from_outputs(outputs), labels.long())
    matrix: Tensor = confusion.compute()
    return matrix


def confusion_figure(matrix: Tensor, names: Sequence[str], *, title: str) -> Figure:
    """Draw a confusion matrix, int64 (classes, classes) with rows = labels, as shares of each row.

    A row without any label is left empty.
    """
    counts = matrix.cpu().double().numpy()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    count = len(names)
    side = max(5.0, 3.0 + count * (0.5 if count <= _MOST_NUMBERS else 0.19))
    figure = new_figure(side + 1, side)
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


def iou_figure(scores: Mapping[str, float | None], *, mean: float, title: str) -> Figure:
    """Draw the IoU of every class, 0..1, as bars with numbers; None: it does not occur."""
    figure = new_figure(7, 1.6 + 0.3 * len(scores))
    axes = figure.subplots()
    rows = range(len(scores))
    axes.barh(rows, [score or 0 for score in scores.values()], color="#3f90da")
    axes.axvline(mean, color="#bd1f01", linestyle="--", label=f"mean {mean:.3f}")
    axes.set_yticks(rows, list(scores))
    axes.invert_yaxis()
    axes.set(title=title, xlabel="intersection over union, 0 to 1", xlim=(0, 1))
    numbers = axes.secondary_yaxis("right")
    texts = ["does not occur" if s is None else f"{s:.3f}" for s in scores.values()]
    numbers.set_yticks(rows, texts)
    numbers.tick_params(length=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9 / len(scores) - 0.1), frameon=False)
    return figure


def write_iou(path: Path, scores: Mapping[str, float | None], *, mean: float) -> None:
    """Write the IoU of every class, and the mean, as CSV: columns class and iou.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [*scores.items(), ("mean", mean)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "iou"))
            writer.writerows((name, "" if s is None else f"{s:.4f}") for name, s in rows)
    except OSError as e:
        raise OutputError(f"cannot write {path}: {e.strerror or e}") from e
