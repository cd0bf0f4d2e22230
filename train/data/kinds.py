"""The kinds of data sets. Each lists the labelled images of a split, without decoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluate.contact_sheets import has_sheets
from dlcv.runtime.evaluate.labelled import (
    LabelledImage,
    class_folders,
    image_mask_pairs,
    labelled_names,
    listed_images,
    sheet_images,
)

if TYPE_CHECKING:
    from dlcv.train.recipe import LabelledRecipe

Lister = Callable[..., list[LabelledImage]]


def list_folders(folder: Path, recipe: LabelledRecipe, *, train: bool) -> list[LabelledImage]:
    """List images in one folder per class."""
    return class_folders(folder / recipe.data.split_path(train=train), _labels(recipe))


def list_labelled_names(
    folder: Path, recipe: LabelledRecipe, *, train: bool
) -> list[LabelledImage]:
    """List images named `LABEL_NUMBER.png`."""
    return labelled_names(folder / recipe.data.split_path(train=train), _labels(recipe))


def list_csv(folder: Path, recipe: LabelledRecipe, *, train: bool) -> list[LabelledImage]:
    """List images from a CSV of files and labels, beside the files or archives that hold them."""
    return listed_images(folder / recipe.data.split_path(train=train), _labels(recipe))


def list_pairs(folder: Path, recipe: LabelledRecipe, *, train: bool) -> list[LabelledImage]:
    """List pairs of images and masks."""
    path = folder / recipe.data.split_path(train=train)
    return image_mask_pairs(path, (recipe.data.images, recipe.data.masks))


def list_cifar10(folder: Path, recipe: LabelledRecipe, *, train: bool) -> list[LabelledImage]:
    """List CIFAR-10 (Krizhevsky 2009): contact sheets, or `cifar-10-batches-py` as torchvision stores it."""
    split = "train" if train else "test"
    if has_sheets(folder, split):
        return sheet_images(folder, split, _labels(recipe))
    from torchvision.datasets import CIFAR10  # checks the files' MD5 before it unpickles them

    try:
        data = CIFAR10(str(folder), train=train, download=False)
    except RuntimeError as e:
        raise InputError(
            f"{folder} has neither {split}_labels.npy with contact sheets nor a whole cifar-10-batches-py"
        ) from e
    if len(data.classes) != len(recipe.classes):
        raise InputError(f"CIFAR-10 has 10 classes, the recipe {len(recipe.classes)}")
    return [
        LabelledImage(name=f"{split}/{i:05d}", read=partial(data.data.__getitem__, i), label=label)
        for i, label in enumerate(data.targets)
    ]


def _labels(recipe: LabelledRecipe) -> tuple[str, ...]:
    """Return the names of the classes in the data, in class order."""
    return recipe.data.labels or recipe.class_names


KINDS: dict[str, Lister] = {
    "folders": list_folders,
    "labelled-names": list_labelled_names,
    "csv": list_csv,
    "pairs": list_pairs,
    "cifar10": list_cifar10,
}
