"""A recipe's data as a LightningDataModule."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch import LightningDataModule

from dlcv.runtime.errors import RecipeError
from dlcv.train.data import AnyDataset, StreamedDataset, open_dataset
from dlcv.train.data.augment import augment_for
from dlcv.train.data.batches import (
    Augment,
    PlainBatches,
    Prefetched,
    TrainBatches,
    prefetched,
    stream_workers,
)
from dlcv.train.data.check import summary_lines
from dlcv.train.recipe import LabelledRecipe, Recipe

AnyLabelled = TypeVar("AnyLabelled", bound=LabelledRecipe)


class LabelledData(LightningDataModule, ABC, Generic[AnyLabelled]):
    """Training and validation data, in memory or streamed. Each process has its share of the batches.

    workers: processes that make training batches ahead of time, of streamed data more, and validation batches too; 0 for
    none.
    """

    train_set: AnyDataset
    validation_set: AnyDataset

    def __init__(self, recipe: AnyLabelled, root: Path, *, workers: int = 1) -> None:
        super().__init__()
        self.recipe = recipe
        self.root = root
        self.workers = workers
        self.train_set = open_dataset(recipe, root, split="train")
        self.validation_set = open_dataset(recipe, root, split="validation")

    def summary_lines(self) -> list[str]:
        """Return balance, sizes and findings: see `dlcv.train.data.check`."""
        return summary_lines(self.recipe, train=self.train_set, validation=self.validation_set)

    @abstractmethod
    def augment(self) -> Augment:
        """Return the augmentation of training batches."""

    def train_dataloader(self) -> Any:
        """Return the batches of this epoch. The trainer calls this for every epoch.

        Raises:
            RecipeError: there are fewer images than a batch takes.
        """
        epoch = self.trainer.current_epoch if self.trainer else 0
        batches = TrainBatches(
            dataset=self.train_set,
            batch=self.recipe.batch,
            augment=self.augment(),
            seed=self.recipe.seed,
            epoch=epoch,
            **self._share(),
        )
        if not len(batches):
            raise RecipeError(
                f"{len(self.train_set)} training images do not fill a batch of {self.recipe.batch} for each device;"
                " lower batch"
            )
        return prefetched(batches, workers=self._workers_for(self.train_set))

    def val_dataloader(self) -> Any:
        return self._in_order(self.validation_set, **self._share())

    def _in_order(self, dataset: AnyDataset, **share: int) -> PlainBatches | Prefetched:
        batches = PlainBatches(dataset=dataset, batch=self.recipe.batch, **share)
        if isinstance(dataset, StreamedDataset):
            return prefetched(batches, workers=self._workers_for(dataset))
        return batches

    def _workers_for(self, dataset: AnyDataset) -> int:
        is_streamed = isinstance(dataset, StreamedDataset) and self.workers > 0
        return max(self.workers, stream_workers()) if is_streamed else self.workers

    def _share(self) -> dict[str, int]:
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world": trainer.world_size} if trainer else {}


class RecipeData(LabelledData[Recipe]):
    """The data of supervised training. workers: None chooses a number."""

    def __init__(self, recipe: Recipe, root: Path, *, workers: int | None = None) -> None:
        super().__init__(recipe, root, workers=_workers(recipe) if workers is None else workers)

    def augment(self) -> Augment:
        """Return the augmentation of the recipe."""
        return augment_for(self.recipe)


def _workers(recipe: Recipe) -> int:
    """Return the number of workers: several for per-image augmentation, one for whole-batch augmentation."""
    augment = recipe.augment
    one_by_one = recipe.task == "segment" or augment.policies or augment.area or augment.rotation
    return min(4, os.cpu_count() or 1) if one_by_one else 1
