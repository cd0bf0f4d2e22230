"""A recipe's data, in memory or streamed from disk. `dlcv.train.data.kinds` has the kinds of data sets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.evaluate.labelled import unlabelled_images
from dlcv.train.data.batches import Dataset
from dlcv.train.data.decode import mask_coding
from dlcv.train.data.kinds import KINDS
from dlcv.train.data.memory import fits
from dlcv.train.data.streamed import AnyDataset, StreamedDataset

if TYPE_CHECKING:
    from dlcv.runtime.evaluate.labelled import LabelledImage
    from dlcv.train.recipe import LabelledRecipe

_SORTED_BY_CLASS = ("folders", "labelled-names", "csv")

Split: TypeAlias = Literal["train", "validation", "test"]


def open_dataset(recipe: LabelledRecipe, root: Path, *, split: Split) -> AnyDataset:
    """Return one split of a recipe's data set, in memory or streamed from disk, as `data.in_memory` says.

    Without `data.hold_out`, `validation` and `test` are both the data set's own second split. These two get the
    recipe's preprocessing, as in deployment; training images get the same with the recipe's `stored_size`.

    Raises:
        RecipeError: no such kind of data set, or its files are missing, mismatched or not of the recipe's
            classes. Of a streamed split, a damaged file is found when it is needed.
    """
    return _kept(_streamed(recipe, root, split=split), recipe)


def load_dataset(recipe: LabelledRecipe, root: Path, *, split: Split) -> Dataset:
    """Load one split of a recipe's data set into memory, whatever `data.in_memory` says. See `open_dataset`.

    Raises:
        RecipeError: as `open_dataset`, or a file is damaged.
    """
    return _streamed(recipe, root, split=split).in_memory()


def open_unlabelled(recipe: LabelledRecipe, root: Path, *, path: str) -> AnyDataset:
    """Return every image of a folder or archive under the data root, with label 0, in memory or streamed from disk.

    Raises:
        RecipeError: there are none, or one cannot be read.
    """
    images = StreamedDataset(
        listing=partial(_unlabelled, root / path),
        preprocessing=recipe.preprocessing,
        coding=None,
        what="unlabelled images",
    )
    return _kept(images, recipe)


def _streamed(recipe: LabelledRecipe, root: Path, *, split: Split) -> StreamedDataset:
    preprocessing = recipe.preprocessing
    if split == "train":
        preprocessing = msgspec.structs.replace(preprocessing, size=recipe.stored_size)
    coding = mask_coding(recipe) if recipe.task == "segment" else None
    where = "" if recipe.data.root == "." else f"{recipe.data.root}, "
    return StreamedDataset(
        listing=partial(listed, recipe, root, split=split),
        preprocessing=preprocessing,
        coding=coding,
        what=f"{where}{split} images",
    )


def _kept(images: StreamedDataset, recipe: LabelledRecipe) -> AnyDataset:
    """Return a split in memory if it is to be kept there."""
    wish = recipe.data.in_memory
    is_kept = fits(images.size_bytes) if wish == "auto" else wish
    return images.in_memory() if is_kept else images


def _unlabelled(path: Path) -> list[LabelledImage]:
    try:
        return [replace(item, label=0) for item in unlabelled_images(path)]
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
    held, share = recipe.data.hold_out or 0, recipe.data.validation_share
    from_training = split == "train" or (split == "validation" and held > 0) or share is not None
    try:
        items = KINDS[recipe.data.name](folder, recipe, train=from_training)
    except InputError as e:
        raise RecipeError(str(e)) from e
    if not from_training:
        return items
    _require_every_class(items, recipe)
    if share is not None:
        items = part_of(items, share, held_out=split != "train")
    if split != "train" and not held:
        return items
    if (held or recipe.data.train_limit) and recipe.data.name in _SORTED_BY_CLASS:
        items = random.Random(0).sample(items, len(items))  # the same split for every recipe seed
    items = items[: recipe.data.train_limit]
    if held >= len(items):
        raise RecipeError(f"data.hold_out {held} leaves nothing of {len(items)} training images")
    return items[: len(items) - held] if split == "train" else items[len(items) - held :]


def part_of(items: Sequence[LabelledImage], share: float, *, held_out: bool) -> list[LabelledImage]:
    """Return the share of each label's images that is held out, or the others, in their order.

    They are drawn always in the same way. Of a label with two or more images, at least one is on each side; a single
    one is not held out. Images with masks have no label and are drawn from as one.
    """
    by_label: dict[int | None, list[int]] = {}
    for number, item in enumerate(items):
        by_label.setdefault(item.label, []).append(number)
    chosen: set[int] = set()
    for numbers in by_label.values():
        count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
        chosen.update(random.Random(0).sample(numbers, count))
    return [item for number, item in enumerate(items) if (number in chosen) == held_out]


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


__all__ = [
    "KINDS",
    "AnyDataset",
    "Dataset",
    "Split",
    "StreamedDataset",
    "listed",
    "load_dataset",
    "open_dataset",
    "open_unlabelled",
    "part_of",
]
