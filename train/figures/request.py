"""The common input of all figures: a run, its data, and the user's options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcv.train.checkpoint import Checkpoint, load_checkpoint
from dlcv.train.data import AnyDataset, listed, open_dataset
from dlcv.train.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.runtime.evaluate.labelled import LabelledImage

Drawn = Iterator[tuple[str, "Figure"]]


class Skipped(Exception):  # noqa: N818  # not an error: figures that do not apply are skipped
    """A figure does not apply to the run. The message says which figure and why."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw.

    run: a checkpoint folder with its log and snapshots. root: the data root. out: the output folder. only:
    names of the wanted figures; by default all. images: names of test images for masks, activations and
    attention; by default three. photos: files for activations and attention instead of test images. layers:
    modules whose activations are drawn besides the first layer's. points: most points in `pca` and `tsne`.
    tell: called before slow steps.
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
        """Load the run's snapshots, in order, and its kept checkpoint, each with a title.

        A snapshot of the kept epoch has the same weights and is left out.
        """
        kept = self.final.metrics["epoch"]
        for folder in sorted(self.run.glob("epoch-*")):
            snapshot = load_checkpoint(folder)
            if snapshot.metrics["epoch"] != kept:
                yield f"epoch {snapshot.metrics['epoch']}", snapshot
        yield f"kept, epoch {kept}", self.final

    @cached_property
    def final(self) -> Checkpoint[Any]:
        """The run's kept checkpoint."""
        return load_checkpoint(self.run)

    @property
    def labelled(self) -> Checkpoint[Recipe]:
        """The kept checkpoint of a run that classifies or segments.

        Raises:
            Skipped: it does neither.
        """
        if not isinstance(self.final.recipe, Recipe):
            raise Skipped(f"not drawn of runs of task {self.final.recipe.task}")
        return self.final

    @cached_property
    def test_set(self) -> AnyDataset:
        """The images that the run is scored on."""
        return open_dataset(self.labelled.recipe, self.root, split="test")

    @cached_property
    def test_images(self) -> list[LabelledImage]:
        """The images that the run is scored on, not yet decoded."""
        return listed(self.labelled.recipe, self.root, split="test")
