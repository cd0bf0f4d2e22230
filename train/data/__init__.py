"""Data sets by name: one file a set, one visible dict, imported on use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from dlcv.runtime.errors import RecipeError
from dlcv.train.data.batches import Dataset

if TYPE_CHECKING:
    from dlcv.train.recipe import Recipe

DATASETS = {
    "cifar10": "dlcv.train.data.cifar10:read_cifar10",
    "camvid": "dlcv.train.data.camvid:read_camvid",
}


def load_dataset(recipe: Recipe, root: Path, *, train: bool) -> Dataset:
    """Read one split of a recipe's data set into memory: training, or validation (or test).

    Raises:
        RecipeError: no such data set, or its files are missing, mismatched or not of the recipe's
            classes.
    """
    if recipe.data.name not in DATASETS:
        raise RecipeError(f"no data set {recipe.data.name!r}; data sets: {', '.join(DATASETS)}")
    module, _, function = DATASETS[recipe.data.name].partition(":")
    folder = root / recipe.data.root
    if not folder.is_dir():
        raise RecipeError(f"no folder {recipe.data.root} under the data root {root}")
    dataset: Dataset = getattr(import_module(module), function)(folder, recipe, train=train)
    return dataset


__all__ = ["DATASETS", "Dataset", "load_dataset"]
