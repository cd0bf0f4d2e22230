"""Data sets by name: one file a set, one visible dict, imported on use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.data.batches import Dataset

if TYPE_CHECKING:
    from dlcv.train.recipe import Recipe

Split: TypeAlias = Literal["train", "validation", "test"]

DATASETS = {
    "cifar10": "dlcv.train.data.cifar10:read_cifar10",
    "pairs": "dlcv.train.data.pairs:read_pairs",
}


def load_dataset(recipe: Recipe, root: Path, *, split: Split) -> Dataset:
    """Read one split of a recipe's data set into memory.

    Without `data.hold_out`, `validation` and `test` are both the data set's own second split.

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
    held = recipe.data.hold_out or 0
    from_training = split == "train" or (split == "validation" and held > 0)
    reader = getattr(import_module(module), function)
    try:
        dataset: Dataset = reader(folder, recipe, train=from_training)
    except InputError as e:
        raise RecipeError(str(e)) from e
    if not (from_training and held):
        return dataset
    if held >= len(dataset):
        raise RecipeError(f"data.hold_out {held} leaves nothing of {len(dataset)} training images")
    return dataset[:-held] if split == "train" else dataset[-held:]


__all__ = ["DATASETS", "Dataset", "Split", "load_dataset"]
