"""Confusion matrix, and IoU by class of segmenters."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dlcv.runtime.errors import OutputError
from dlcv.runtime.evaluate.confusion_matrix import confusion_figure
from dlcv.train.evaluate import answers
from dlcv.train.figures.canvas import new_figure
from dlcv.train.figures.request import Drawn, Request
from dlcv.train.metrics import (
    confusion_matrix_for,
    metrics_from_confusion,
    predictions_from_outputs,
)
from dlcv.train.tasks import task_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from dlcv.train.checkpoint import Checkpoint
    from dlcv.train.data import AnyDataset
    from dlcv.train.recipe import Recipe

_SCORES = {"accuracy": "accuracy", "mean_iou": "mean IoU"}


def draw_confusion(request: Request) -> Drawn:
    """Yield the confusion matrix of the kept checkpoint and, for a segmenter, its IoU by class."""
    final = request.labelled
    recipe, matrix = final.recipe, confusion_on(final, request.test_set)
    metrics = metrics_from_confusion(matrix, recipe)
    name = task_kind(recipe.task).monitor
    title = f"{recipe.name}: {_SCORES[name]} {metrics[name]:.3f}"
    yield "confusion", confusion_figure(matrix.cpu().numpy(), recipe.class_names, title=title)
    if recipe.task == "segment":
        scores, mean = metrics["iou"], metrics["mean_iou"]
        write_iou(request.out / "iou.csv", scores, mean=mean)
        yield "iou", iou_figure(scores, mean=mean, title=recipe.name)


def confusion_on(checkpoint: Checkpoint[Recipe], dataset: AnyDataset) -> Tensor:
    """Return the confusion matrix of a checkpoint, int64 (classes, classes), rows = labels."""
    confusion = confusion_matrix_for(checkpoint.recipe)
    for outputs, labels in answers(checkpoint, dataset):
        confusion.update(predictions_from_outputs(outputs), labels.long())
    matrix: Tensor = confusion.compute()
    return matrix


def iou_figure(scores: Mapping[str, float | None], *, mean: float, title: str) -> Figure:
    """Plot the IoU of every class, 0..1, as labelled bars. None: the class does not occur."""
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
