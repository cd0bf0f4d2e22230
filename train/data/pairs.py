"""Images with masks, from a folder, a ZIP or a tar archive read in place."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from dlcv.runtime.archives import Readers, files_in
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import Frame, load_pixels
from dlcv.runtime.masks import Color, Mask, MaskCoding, decoded_mask
from dlcv.train.data.batches import Dataset

if TYPE_CHECKING:
    from dlcv.train.recipe import Recipe


def read_pairs(folder: Path, recipe: Recipe, *, train: bool) -> Dataset:
    """Read a split: images uint8 (N, H, W, 3) through the recipe's preprocessing, masks uint8 (N, H, W).

    A mask goes through the same crop and resize as its image, by the nearest pixel.

    Raises:
        InputError: one half of a pair is missing or unreadable, sizes differ, or a mask holds a label
            that is neither a class nor ignored.
    """
    config = recipe.data
    path = folder / config.split_path(train=train)
    files = files_in(path)
    try:
        pairs = paired_names(files, images=config.images, masks=config.masks)
        pairs = pairs[: config.train_limit] if train else pairs
        coding = _coding(recipe)
        strays: Counter[Color] = Counter()
        read = [_read(files, pair, recipe=recipe, coding=coding, strays=strays) for pair in pairs]
        _require_one_size([image for image, _ in pairs], [pixels.shape[:2] for pixels, _ in read])
    except InputError as e:
        raise InputError(f"{path}: {e}") from e.__cause__
    return Dataset(
        images=torch.from_numpy(np.stack([pixels for pixels, _ in read])),
        labels=torch.from_numpy(np.stack([mask for _, mask in read])),
        names=tuple(image for image, _ in pairs),
        notes=(_stray_note(path, strays),) if strays else (),
    )


def paired_names(files: Readers, *, images: str, masks: str) -> list[tuple[str, str]]:
    """Return the files (image, mask) that fit two patterns with the same name for `{}`, sorted by it.

    The files may lie in any folder, as long as it is the same for both.

    Raises:
        InputError: an image without a mask or the reverse, or nothing at all.
    """
    of_images, of_masks = _matching(files, images), _matching(files, masks)
    if not of_images and not of_masks:
        raise InputError(f"no {images.format('NAME')} with {masks.format('NAME')} in it")
    for key in sorted(of_images.keys() ^ of_masks.keys()):
        if key in of_images:
            raise InputError(f"{of_images[key]} has no mask {key[0]}{masks.format(key[1])}")
        raise InputError(f"{of_masks[key]} has no image {key[0]}{images.format(key[1])}")
    return [(of_images[key], of_masks[key]) for key in sorted(of_images)]


def _matching(files: Readers, pattern: str) -> dict[tuple[str, str], str]:
    """Return the files that fit, by (folder before the pattern, what stands for {})."""
    before, after = map(re.escape, pattern.split("{}"))
    whole = re.compile(rf"((?:.*/)?){before}(.+){after}")
    matches = {name: whole.fullmatch(name) for name in files}
    return {(match[1], match[2]): name for name, match in matches.items() if match}


def _coding(recipe: Recipe) -> MaskCoding:
    colors = tuple(c.color for c in recipe.classes if c.color is not None)
    return MaskCoding(
        classes=len(recipe.classes),
        colors=colors if recipe.data.mask_coding == "rgb" else None,
        ignore_labels=recipe.data.ignore_labels,
        ignore_colors=recipe.data.ignore_colors,
    )


def _read(
    files: Readers,
    pair: tuple[str, str],
    *,
    recipe: Recipe,
    coding: MaskCoding,
    strays: Counter[Color],
) -> tuple[Any, Any]:
    """Return a pair's pixels and labels, and count its pixels of unknown colours into `strays`."""
    image, mask = pair
    try:
        decoded = load_pixels(files[image](), recipe.preprocessing)
    except ImageError as e:
        raise InputError(f"{image}: {e}") from e
    found = decoded_mask(files[mask](), coding, name=mask)
    if found.labels.shape != decoded.frame.size:
        raise InputError(
            f"mask {mask} is {found.labels.shape}, its image {image} {decoded.frame.size};"
            " they must have the same size in pixels"
        )
    strays.update(found.strays)
    return decoded.pixels, _fitted(found.labels, decoded.frame, size=decoded.pixels.shape[:2])


def _fitted(labels: Mask, frame: Frame, *, size: tuple[int, ...]) -> Mask:
    """Crop and resize a mask as its image was, by the nearest pixel."""
    if labels.shape == size:
        return labels
    resized = Image.fromarray(labels).resize(
        (size[1], size[0]), Image.Resampling.NEAREST, box=frame.box
    )
    return np.array(resized)


def _require_one_size(names: list[str], sizes: list[tuple[int, ...]]) -> None:
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"after preprocessing {name} is {size}, {names[0]} {sizes[0]}; one size is needed:"
                " set preprocessing.resize to stretch or center_crop"
            )


def _stray_note(path: Path, strays: Counter[Color]) -> str:
    most = ", ".join(f"{color} {count:,}" for color, count in strays.most_common(3))
    return (
        f"{path.name}: {strays.total():,} mask pixels have the color of no class and are ignored"
        f" ({most}{', ...' if len(strays) > 3 else ''})"
    )
