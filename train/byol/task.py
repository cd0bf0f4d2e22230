"""The parts of a BYOL training run: data, module, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from dlcv.train.byol.module import ByolModule
from dlcv.train.byol.probe import probe_accuracy
from dlcv.train.byol.recipe import ByolRecipe
from dlcv.train.byol.views import TwoViews
from dlcv.train.checkpoint import Checkpoint
from dlcv.train.data import AnyDataset, Dataset, StreamedDataset, open_dataset, open_unlabelled
from dlcv.train.data.batches import Augment, Batch, PlainBatches
from dlcv.train.data.check import summary_lines
from dlcv.train.data.module import LabelledData
from dlcv.train.models import ModelSpec, build_model
from dlcv.train.models.spec import without_head
from dlcv.train.modules import normalised
from dlcv.train.tasks import TaskKind


class ByolData(LabelledData[ByolRecipe]):
    """Pairs of views for training, and labelled images without augmentation for the probe.

    Every process has all labelled images.
    """

    def __init__(self, recipe: ByolRecipe, root: Path) -> None:
        super().__init__(recipe, root)
        self.probe_set = probe_images(self.train_set, recipe)
        if recipe.unlabelled is not None:
            self.train_set = open_unlabelled(recipe, root, path=recipe.unlabelled)

    def summary_lines(self) -> list[str]:
        """Return lines with the number of training images, and with findings about the labelled images."""
        height, width = self.train_set.size
        return [
            f"unlabelled: {len(self.train_set):,} images, {height}x{width} pixels; for the probe:",
            *summary_lines(self.recipe, train=self.probe_set, validation=self.validation_set),
        ]

    def augment(self) -> Augment:
        """Return the augmentation that makes two views of every image."""
        return TwoViews(self.recipe.augment)

    def val_dataloader(self) -> Any:
        sets = (self.probe_set, self.validation_set)
        return [self._in_order(dataset) for dataset in sets]


@overload
def probe_images(dataset: Dataset, recipe: ByolRecipe) -> Dataset: ...
@overload
def probe_images(dataset: StreamedDataset, recipe: ByolRecipe) -> StreamedDataset: ...
def probe_images(dataset: AnyDataset, recipe: ByolRecipe) -> AnyDataset:
    """Return the labelled training images of the probe."""
    return dataset[: recipe.probe.images]


def _network(recipe: ByolRecipe) -> ModelSpec:
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=len(recipe.classes))
    return without_head(spec, name=recipe.model.name)


def _module(recipe: ByolRecipe, spec: ModelSpec, _: ByolData) -> ByolModule:
    return ByolModule(recipe, spec)


def evaluate(checkpoint: Checkpoint[ByolRecipe], root: Path) -> dict[str, Any]:
    """Return the probe's accuracy on the test images, and that of the same network with random weights.

    Raises:
        RecipeError: the data is missing or does not fit.
    """
    recipe = checkpoint.recipe
    known = probe_images(open_dataset(recipe, root, split="train"), recipe)
    asked = open_dataset(recipe, root, split="test")
    torch.manual_seed(recipe.seed)
    untrained = _network(recipe).network.eval()
    networks = {"probe_accuracy": checkpoint.model, "random_accuracy": untrained}
    scores = {
        name: probe_accuracy(
            embedded(network, known, recipe),
            embedded(network, asked, recipe),
            classes=len(recipe.classes),
            weight_decay=recipe.probe.weight_decay,
        )
        for name, network in networks.items()
    }
    return {**scores, "images": len(asked)}


def embedded(network: nn.Module, dataset: AnyDataset, recipe: ByolRecipe) -> Batch:
    """Return embeddings, float (N, D), and labels of a data set."""
    rows = []
    for images, _ in PlainBatches(dataset=dataset, batch=recipe.batch):
        with torch.inference_mode():
            rows.append(network(normalised(images, recipe.normalization)))
    return torch.cat(rows), dataset.labels.long()


BYOL = TaskKind(
    monitor="probe_accuracy", network=_network, data=ByolData, module=_module, evaluate=evaluate
)
