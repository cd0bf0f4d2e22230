"""A recipe's data for Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from dlcv.train.data import load_dataset
from dlcv.train.data.augment import augment_for
from dlcv.train.data.batches import PlainBatches, TrainBatches
from dlcv.train.recipe import Recipe


class RecipeData(LightningDataModule):
    """What a recipe trains on and what it validates on, in memory."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        super().__init__()
        self.recipe = recipe
        self.train_set = load_dataset(recipe, root, split="train")
        self.validation_set = load_dataset(recipe, root, split="validation")

    def train_dataloader(self) -> Any:
        """Return this epoch's batches: the trainer asks again for every epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return TrainBatches(
            dataset=self.train_set,
            batch=self.recipe.batch,
            augment=augment_for(self.recipe),
            seed=self.recipe.seed,
            epoch=epoch,
        )

    def val_dataloader(self) -> Any:
        return PlainBatches(dataset=self.validation_set, batch=self.recipe.batch)
