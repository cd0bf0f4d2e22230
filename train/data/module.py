"""A recipe's data as a LightningDataModule."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch import LightningDataModule

from dlcv.train.data import load_dataset
from dlcv.train.data.augment import augment_for
from dlcv.train.data.batches import Augment, PlainBatches, TrainBatches, prefetched
from dlcv.train.data.check import summary_lines
from dlcv.train.recipe import LabelledRecipe, Recipe

AnyLabelled = TypeVar("AnyLabelled", bound=LabelledRecipe)


class LabelledData(LightningDataModule, ABC, Generic[AnyLabelled]):
    """Training and validation data in memory. Each process has its share of the batches.

    workers: processes that make training batches ahead of time; 0 for none.
    """

    def __init__(self, recipe: AnyLabelled, root: Path, *, workers: int = 1) -> None:
        super().__init__()
        self.recipe = recipe
        self.root = root
        self.workers = workers
        self.train_set = load_dataset(recipe, root, split="train")
        self.validation_set = load_dataset(recipe, root, split="validation")

    def summary_lines(self) -> list[str]:
        """Return balance, sizes and findings: see `dlcv.train.data.check`."""
        return summary_lines(self.recipe, train=self.train_set, validation=self.validation_set)

    @abstractmethod
    def augment(self) -> Augment:
        """Return the augmentation of training batches."""

    def train_dataloader(self) -> Any:
        """Return the batches of this epoch. The trainer calls this for every epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        batches = TrainBatches(
            dataset=self.train_set,
            batch=self.recipe.batch,
            augment=self.augment(),
            seed=self.recipe.seed,
            epoch=epoch,
            **self._share(),
        )
        return prefetched(batches, workers=self.workers)

    def val_dataloader(self) -> Any:
        return PlainBatches(dataset=self.validation_set, batch=self.recipe.batch, **self._share())

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
