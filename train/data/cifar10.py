"""CIFAR-10 (Krizhevsky 2009) from contact sheets: 1,000 images of 32x32 in 25 rows of 40.

Image i of a split is tile i % 1000 of sheet i // 1000; its label is entry i of `SPLIT_labels.npy`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from dlcv.runtime.errors import RecipeError
from dlcv.train.data.batches import Dataset

if TYPE_CHECKING:
    from dlcv.train.recipe import Recipe

_SIDE, _ROWS, _COLUMNS = 32, 25, 40
_TILES = _ROWS * _COLUMNS


def read_cifar10(folder: Path, recipe: Recipe, *, train: bool) -> Dataset:
    """Read a split: images uint8 (N, 32, 32, 3), labels int64 (N,).

    Raises:
        RecipeError: a sheet is missing or of another size, or labels and classes do not fit.
    """
    split = "train" if train else "test"
    labels = _labels(folder / f"{split}_labels.npy", num_classes=len(recipe.classes))
    if train and recipe.data.train_limit is not None:
        labels = labels[: recipe.data.train_limit]
    sheets = range(-(-len(labels) // _TILES))
    tiles = np.concatenate([_tiles(folder / f"{split}_{sheet:02d}.webp") for sheet in sheets])
    return Dataset(images=torch.from_numpy(tiles[: len(labels)]), labels=torch.from_numpy(labels))


def _labels(path: Path, *, num_classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise RecipeError(f"{path} is not a readable label file: {e}") from e
    if labels.ndim != 1 or labels.size == 0 or labels.max() >= num_classes:
        raise RecipeError(
            f"{path} holds labels of shape {labels.shape} up to {labels.max(initial=0)};"
            f" expected (N,) with labels 0..{num_classes - 1}"
        )
    checked: np.ndarray[Any, np.dtype[np.int64]] = labels.astype(np.int64)
    return checked


def _tiles(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a sheet's tiles, uint8 (1000, 32, 32, 3)."""
    try:
        with Image.open(path, formats=("WEBP", "PNG")) as image:
            sheet = np.asarray(image.convert("RGB"))
    except OSError as e:
        raise RecipeError(f"{path} is not a readable contact sheet: {e}") from e
    expected = (_ROWS * _SIDE, _COLUMNS * _SIDE, 3)
    if sheet.shape != expected:
        raise RecipeError(f"{path} has shape {sheet.shape}; expected {expected}")
    grid = sheet.reshape(_ROWS, _SIDE, _COLUMNS, _SIDE, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4)).reshape(_TILES, _SIDE, _SIDE, 3)
