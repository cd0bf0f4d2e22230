"""Draws every figure that fits a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dlcv.runtime.confusion import confusion_figure
from dlcv.runtime.errors import InputError
from dlcv.train.checkpoint import Checkpoint, load_checkpoint
from dlcv.train.data import Dataset, load_dataset
from dlcv.train.figures.canvas import require_figures, save_figure
from dlcv.train.figures.confusion import confusion_on, iou_figure, write_iou
from dlcv.train.figures.curves import curves_figure, read_log
from dlcv.train.figures.masks import chosen_images, masks_figure, predicted_masks
from dlcv.train.metrics import metrics_from_confusion
from dlcv.train.recipe import Recipe
from dlcv.train.tasks import task_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCORES = {"accuracy": "accuracy", "mean_iou": "mean IoU"}

Drawn = Iterator[tuple[str, "Figure"]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw.

    run: a checkpoint folder with its log and snapshots. root: the data root. out: where figures go.
    images: names of those to draw masks of; without any, three.
    """

    run: Path
    root: Path
    out: Path
    images: tuple[str, ...] = ()

    def checkpoints(self) -> Iterator[Checkpoint[Recipe]]:
        """Load the run's snapshots, in order, and the checkpoint that it kept."""
        for folder in sorted(self.run.glob("epoch-*")):
            yield load_checkpoint(folder, Recipe)
        yield self.final

    @cached_property
    def final(self) -> Checkpoint[Recipe]:
        """The checkpoint that the run kept."""
        return load_checkpoint(self.run, Recipe)

    @cached_property
    def test_set(self) -> Dataset:
        """The images on which the run is scored."""
        return load_dataset(self.final.recipe, self.root, split="test")


def draw_figures(request: Request) -> Iterator[str]:
    """Write the figures and yield a line about each: its path, or why it is skipped.

    Raises:
        InputError: matplotlib is missing, or a named image is not there.
        RecipeError: the run is no checkpoint, or its data are missing.
        OutputError: a file cannot be written.
    """
    require_figures()
    for draw in _FIGURES:
        try:
            for name, figure in draw(request):
                path = request.out / f"{name}.png"
                save_figure(figure, path)
                yield str(path)
        except _Skipped as e:
            yield f"skipped {e}"


class _Skipped(Exception):  # noqa: N818  # no error: what does not fit a run is not drawn
    """A figure does not fit the run; the text says which and why."""


def _curves(request: Request) -> Drawn:
    title = request.final.recipe.name
    try:
        entries = read_log(request.run)
    except InputError as e:
        raise _Skipped(f"curves: {e}") from e
    for by in ("epoch", "step"):
        yield f"curves-{by}", curves_figure(entries, title=title, by=by)


def _confusion(request: Request) -> Drawn:
    final = request.final
    recipe, matrix = final.recipe, confusion_on(final, request.test_set)
    metrics = metrics_from_confusion(matrix, recipe)
    name = task_kind(recipe.task).monitor
    title = f"{recipe.name}: {_SCORES[name]} {metrics[name]:.3f}"
    yield "confusion", confusion_figure(matrix.cpu().numpy(), recipe.class_names, title=title)
    if recipe.task == "segment":
        scores, mean = metrics["iou"], metrics["mean_iou"]
        write_iou(request.out / "iou.csv", scores, mean=mean)
        yield "iou", iou_figure(scores, mean=mean, title=recipe.name)


def _masks(request: Request) -> Drawn:
    recipe, dataset = request.final.recipe, request.test_set
    if recipe.task != "segment":
        raise _Skipped("masks: the run classifies")
    chosen = chosen_images(dataset, request.images, default=3)
    photos = dataset.images[chosen]
    masks = {"truth": dataset.labels[chosen].numpy()}
    for checkpoint in request.checkpoints():
        final = checkpoint is request.final
        name = f"{'kept, ' if final else ''}epoch {checkpoint.metrics['epoch']}"
        masks[name] = predicted_masks(checkpoint, photos)
    yield "masks", masks_figure(photos.numpy(), masks, recipe.classes, title=recipe.name)


_FIGURES: tuple[Callable[[Request], Drawn], ...] = (_curves, _confusion, _masks)
