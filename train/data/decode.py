"""Decodes labelled images into memory, with the runtime's preprocessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.evaluate.labelled import LabelledImage
from dlcv.runtime.images import DecodedImage, Frame, load_pixels
from dlcv.runtime.images.label_masks import Mask, MaskCoding, Strays, decoded_mask, stray_note
from dlcv.train.data.batches import Dataset

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import Preprocessing
    from dlcv.train.recipe import LabelledRecipe


def decoded(
    items: Sequence[LabelledImage],
    *,
    preprocessing: Preprocessing,
    coding: MaskCoding | None = None,
) -> Dataset:
    """Decode every image once. A mask is cropped and resized like its image, by nearest neighbour.

    coding: how masks encode classes; None if images have a label instead of a mask.

    Raises:
        InputError: a file cannot be read, images differ in size after preprocessing, a mask has another
            size than its image or holds a label that is neither a class nor ignored.
    """
    strays: Counter[Any] = Counter()
    sizes = []
    images: Any = None
    labels: Any = None
    for number, item in enumerate(items):
        image = _image(item, preprocessing)
        if images is None:
            images = np.empty((len(items), *image.pixels.shape), np.uint8)
            labels = np.empty((len(items), *(image.pixels.shape[:2] if coding else ())), np.uint8)
            labels = labels if coding else labels.astype(np.int64)
        if image.pixels.shape != images.shape[1:]:
            raise InputError(_sizes_differ(item, image, first=items[0], shape=images.shape[1:3]))
        images[number] = image.pixels
        sizes.append(image.frame.size)
        labels[number] = _mask(item, image, coding, strays=strays) if coding else item.label
    return Dataset(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        names=tuple(item.name for item in items),
        sizes=tuple(sizes),
        notes=(stray_note(strays),) if strays else (),
    )


def _image(item: LabelledImage, preprocessing: Preprocessing) -> DecodedImage:
    try:
        return load_pixels(item.read(), preprocessing)
    except ImageError as e:
        raise InputError(f"{item.name}: {e}") from e


def _mask(item: LabelledImage, image: DecodedImage, coding: MaskCoding, *, strays: Strays) -> Mask:
    """Return an image's labels. Pixels of unknown colours are counted in `strays`."""
    data = item.read_mask() if item.read_mask else b""
    found = decoded_mask(data, coding, name=item.mask)
    if found.labels.shape != image.frame.size:
        raise InputError(
            f"mask {item.mask} is {found.labels.shape}, its image {item.name} {image.frame.size};"
            " they must have the same size in pixels"
        )
    strays.update(found.strays)
    return _fitted(found.labels, image.frame, size=image.pixels.shape[:2])


def mask_coding(recipe: LabelledRecipe) -> MaskCoding:
    """Return how a recipe's masks encode classes."""
    colors = tuple(c.color for c in recipe.classes if c.color is not None)
    return MaskCoding(
        classes=len(recipe.classes),
        colors=colors if recipe.data.mask_coding == "rgb" else None,
        ignore_labels=recipe.data.ignore_labels,
        ignore_colors=recipe.data.ignore_colors,
    )


def _fitted(labels: Mask, frame: Frame, *, size: tuple[int, ...]) -> Mask:
    """Crop and resize a mask like its image."""
    if labels.shape == size:
        return labels
    target = (size[1], size[0])
    return np.asarray(
        Image.fromarray(labels).resize(target, Image.Resampling.NEAREST, box=frame.box)
    )


def _sizes_differ(
    item: LabelledImage, image: DecodedImage, *, first: LabelledImage, shape: tuple[int, ...]
) -> str:
    return (
        f"after preprocessing {item.name} is {image.pixels.shape[:2]}, {first.name} {shape}; one size is"
        " needed: set preprocessing.resize to stretch or center_crop"
    )
