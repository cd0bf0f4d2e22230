"""CamVid (Brostow, Fauqueur, Cipolla 2009), SegNet's 11 classes, from zips read in place.

`train.zip` and `val.zip` hold `images/NAME.jpg` and `labels/NAME.png` (pixel value = class index;
the first index after the classes is void, and ignored).
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from PIL import Image

from dlcv.runtime.errors import ImageError, RecipeError
from dlcv.runtime.images import load_pixels
from dlcv.train.data.batches import IGNORE_LABEL, Dataset

if TYPE_CHECKING:
    from dlcv.train.recipe import Recipe


def read_camvid(folder: Path, recipe: Recipe, *, train: bool) -> Dataset:
    """Read a split: images uint8 (N, H, W, 3) through the recipe's preprocessing, masks (N, H, W).

    Raises:
        RecipeError: the zip, or one half of a pair, is missing or unreadable, sizes differ, or a mask
            holds a label that is neither a class nor void.
    """
    path = folder / ("train.zip" if train else "val.zip")
    try:
        with ZipFile(path) as archive:
            names = paired_names(archive)
            if train and recipe.data.train_limit is not None:
                names = names[: recipe.data.train_limit]
            pairs = [_pair(archive, name, recipe=recipe) for name in names]
    except (OSError, BadZipFile) as e:
        raise RecipeError(f"{path} is not a readable zip file: {e}") from e
    except RecipeError as e:
        raise RecipeError(f"{path}: {e}") from e.__cause__
    images, masks = zip(*pairs, strict=True)
    _require_one_size(path, names, [image.shape[:2] for image in images])
    return Dataset(
        images=torch.from_numpy(np.stack(images)), labels=torch.from_numpy(np.stack(masks))
    )


def paired_names(archive: ZipFile) -> list[str]:
    """Return the names, sorted, that have both an image and a mask in the archive.

    Raises:
        RecipeError: an image without a mask or the reverse, or nothing at all.
    """
    members = [PurePosixPath(name) for name in archive.namelist()]
    images = {m.stem for m in members if m.parent.name == "images" and m.suffix == ".jpg"}
    masks = {m.stem for m in members if m.parent.name == "labels" and m.suffix == ".png"}
    for name in sorted(images ^ masks):
        have, lack = ("image", "mask") if name in images else ("mask", "image")
        raise RecipeError(f"{name} has an {have} but no {lack}".replace("an mask", "a mask"))
    if not images:
        raise RecipeError("no images/NAME.jpg with labels/NAME.png in it")
    return sorted(images)


def _pair(archive: ZipFile, name: str, *, recipe: Recipe) -> tuple[Any, Any]:
    try:
        pixels = load_pixels(archive.read(f"images/{name}.jpg"), recipe.preprocessing).pixels
    except ImageError as e:
        raise RecipeError(f"images/{name}.jpg: {e}") from e
    try:
        with Image.open(io.BytesIO(archive.read(f"labels/{name}.png")), formats=("PNG",)) as file:
            mask = np.array(file)
    except OSError as e:
        raise RecipeError(f"labels/{name}.png is not a readable PNG: {e}") from e
    void = len(recipe.classes)
    if mask.dtype != np.uint8 or mask.shape != pixels.shape[:2]:
        raise RecipeError(
            f"{name}: the mask is {mask.dtype} {mask.shape}, the image after preprocessing"
            f" {pixels.shape[:2]}; a mask must be uint8 of the same size"
        )
    if mask.max(initial=0) > void:
        raise RecipeError(
            f"{name}: label {mask.max()} in the mask; classes are 0..{void - 1}, void {void}"
        )
    mask[mask == void] = IGNORE_LABEL
    return pixels, mask


def _require_one_size(path: Path, names: list[str], sizes: list[tuple[int, ...]]) -> None:
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise RecipeError(
                f"{path}: {name} is {size}, {names[0]} is {sizes[0]}; one size is needed"
            )
