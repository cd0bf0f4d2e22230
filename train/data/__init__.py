"""Loads a recipe's data into memory. `dlcv.train.data.kinds` has the kinds of data sets."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.evaluate.labelled import unlabelled_images
from dlcv.train.data.batches import Dataset
from dlcv.train.data.decode import decoded, mask_coding
from dlcv.train.data.kinds import KINDS

if TYPE_CHECKING:
    from dlcv.runtime.evaluate.labelled import LabelledImage
    from dlcv.train.recipe import LabelledRecipe

_SORTED_BY_CLASS = ("folders", "labelled-names", "csv")

Split: TypeAlias = Literal["train", "validation", "test"]


def load_dataset(recipe: LabelledRecipe, root: Path, *, split: Split) -> Dataset:
    """Load one split of a recipe's data set into memory.

    Without `data.hold_out`, `validation` and `test` are both the data set's own second split. These two get the
    recipe's preprocessing, as in deployment; training images get the same with the recipe's `stored_size`.

    Raises:
        RecipeError: no such kind of data set, or its files are missing, mismatched or not of the recipe's
            classes.
    """
    preprocessing = recipe.preprocessing
    if split == "train":
        preprocessing = msgspec.structs.replace(preprocessing, size=recipe.stored_size)
    items = listed(recipe, root, split=split)
    coding = mask_coding(recipe) if recipe.task == "segment" else None
    try:
        return decoded(items, preprocessing=preprocessing, coding=coding)
    except InputError as e:
        raise RecipeError(f"{recipe.data.root}, {split} images: {e}") from e


def load_unlabelled(recipe: LabelledRecipe, root: Path, *, path: str) -> Dataset:
    """Load every image of a folder or archive under the data root into memory, with label 0.

    Raises:
        RecipeError: there are none, or one cannot be read.
    """
    try:
        items = [replace(item, label=0) for item in unlabelled_images(root / path)]
        return decoded(items, preprocessing=recipe.preprocessing)
    except InputError as e:
        raise RecipeError(f"unlabelled images: {e}") from e


def listed(recipe: LabelledRecipe, root: Path, *, split: Split) -> list[LabelledImage]:
    """List one split of a recipe's data set, without decoding.

    Raises:
        RecipeError: as `load_dataset`.
    """
    if recipe.data.name not in KINDS:
        raise RecipeError(f"no data set {recipe.data.name!r}; data sets: {', '.join(KINDS)}")
    if (recipe.data.name == "pairs") != (recipe.task == "segment"):
        raise RecipeError(f"data set {recipe.data.name} does not fit task {recipe.task}")
    folder = root / recipe.data.root
    if not folder.is_dir():
        raise RecipeError(f"no folder {recipe.data.root} under the data root {root}")
    held = recipe.data.hold_out or 0
    from_training = split == "train" or (split == "validation" and held > 0)
    try:
        items = KINDS[recipe.data.name](folder, recipe, train=from_training)
    except InputError as e:
        raise RecipeError(str(e)) from e
    if not from_training:
        return items
    _require_every_class(items, recipe)
    if (held or recipe.data.train_limit) and recipe.data.name in _SORTED_BY_CLASS:
        items = random.Random(0).sample(items, len(items))  # the same split for every recipe seed
    items = items[: recipe.data.train_limit]
    if held >= len(items):
        raise RecipeError(f"data.hold_out {held} leaves nothing of {len(items)} training images")
    return items[: len(items) - held] if split == "train" else items[len(items) - held :]


def _require_every_class(items: list[LabelledImage], recipe: LabelledRecipe) -> None:
    if recipe.task == "segment":
        return
    missing = set(range(len(recipe.classes))) - {item.label for item in items}
    if missing:
        first = min(missing)
        raise RecipeError(
            f"{len(missing)} of the recipe's {len(recipe.classes)} classes have no training image, such as"
            f" {recipe.class_names[first]!r} ({first}); drop them or check data.labels"
        )


__all__ = ["KINDS", "Dataset", "Split", "listed", "load_dataset", "load_unlabelled"]
