"""Reads contact sheets: 1,000 labelled images of 32x32 pixels in 25 rows of 40.

dlcv keeps CIFAR-10 (Krizhevsky 2009) in this form. Image i of a split is tile i % 1000 of sheet i // 1000,
`SPLIT_NN.webp`; its label is entry i of `SPLIT_labels.npy`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images.file_formats import opened

if TYPE_CHECKING:
    from dlcv.runtime.images import UInt8

_SIDE, _ROWS, _COLUMNS = 32, 25, 40
_TILES = _ROWS * _COLUMNS


def has_sheets(folder: Path, split: str) -> bool:
    """Return whether a folder holds the contact sheets of a split."""
    return (folder / f"{split}_labels.npy").is_file()


def tile_readers(
    folder: Path, split: str, *, classes: int
) -> list[tuple[str, Callable[[], UInt8], int]]:
    """Return name, reader and label of every image. A reader returns uint8 (32, 32, 3) RGB.

    Raises:
        InputError: labels and classes do not fit; a reader raises it for a sheet that is missing or damaged.
    """
    labels = _labels(folder / f"{split}_labels.npy", classes=classes)
    return [
        (f"{split}/{number:05d}", partial(_tile, folder, split, number), label)
        for number, label in enumerate(labels.tolist())
    ]


def _tile(folder: Path, split: str, number: int) -> UInt8:
    tile: UInt8 = _tiles(folder / f"{split}_{number // _TILES:02d}.webp")[number % _TILES]
    return tile


def _labels(path: Path, *, classes: int) -> np.ndarray[Any, Any]:
    try:
        labels: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is not a readable label file: {e}") from e
    if labels.ndim != 1 or labels.size == 0 or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{path} holds labels of shape {labels.shape} up to {labels.max(initial=0)};"
            f" expected (N,) with labels 0..{classes - 1}"
        )
    return labels.astype(np.int64)


@lru_cache(maxsize=1)  # images are read in order
def _tiles(path: Path) -> UInt8:
    """Return a sheet's tiles, uint8 (1000, 32, 32, 3)."""
    try:
        with opened(path, formats=("WEBP", "PNG")) as image:
            sheet = np.asarray(image.convert("RGB"))
    except ImageError as e:
        raise InputError(f"{path} is not a readable contact sheet: {e}") from e
    expected = (_ROWS * _SIDE, _COLUMNS * _SIDE, 3)
    if sheet.shape != expected:
        raise InputError(f"{path} has shape {sheet.shape}; expected {expected}")
    grid = sheet.reshape(_ROWS, _SIDE, _COLUMNS, _SIDE, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4)).reshape(_TILES, _SIDE, _SIDE, 3)
