"""What every figure is drawn from: a run, its data, and the wishes of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcv.train.checkpoint import Checkpoint, load_checkpoint
from dlcv.train.data import Dataset, listed, load_dataset
from dlcv.train.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.runtime.evaluate.labelled import LabelledImage

Drawn = Iterator[tuple[str, "Figure"]]


class Skipped(Exception):  # noqa: N818  # no error: what does not fit a run is not drawn
    """A figure does not fit the run; the text says which and why."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw.

    run: a checkpoint folder with its log and snapshots. root: the data root. out: where figures go.
    only: names of the figures wanted; without any, all. images: names of test images to draw masks,
    activations and attention of; without any, three. photos: files to draw activations and attention of instead.
    layers: modules whose activations are drawn beside the first layer's. points: at most so many in
    `pca` and `tsne`. tell: hears what takes long.
    """

    run: Path
    root: Path
    out: Path
    only: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    photos: tuple[Path, ...] = ()
    layers: tuple[str, ...] = ()
    points: int = 2000
    tell: Callable[[str], object] = field(default=lambda _: None)

    def checkpoints(self) -> Iterator[tuple[str, Checkpoint[Any]]]:
        """Load the run's snapshots, in order, and the checkpoint that it kept, each with a title.

        A snapshot of the epoch that was kept has the same weights and is left out.
        """
        kept = self.final.metrics["epoch"]
        for folder in sorted(self.run.glob("epoch-*")):
            snapshot = load_checkpoint(folder)
            if snapshot.metrics["epoch"] != kept:
                yield f"epoch {snapshot.metrics['epoch']}", snapshot
        yield f"kept, epoch {kept}", self.final

    @cached_property
    def final(self) -> Checkpoint[Any]:
        """The checkpoint that the run kept."""
        return load_checkpoint(self.run)

    @property
    def labelled(self) -> Checkpoint[Recipe]:
        """The same of a run that classifies or segments.

        Raises:
            Skipped: it does neither.
        """
        if not isinstance(self.final.recipe, Recipe):
            raise Skipped(f"not drawn of runs of task {self.final.recipe.task}")
        return self.final

    @cached_property
    def test_set(self) -> Dataset:
        """The images on which the run is scored."""
        return load_dataset(self.labelled.recipe, self.root, split="test")

    @cached_property
    def test_images(self) -> list[LabelledImage]:
        """The same, not yet decoded."""
        return listed(self.labelled.recipe, self.root, split="test")
