"""A folder with `images` and `masks`, or with `train` and `val` that hold both. Masks are PNG files of class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.evaluate.labelled import LabelledImage, image_mask_pairs
from dlcv.runtime.images.label_masks import IGNORED, MaskCoding, decoded_mask
from dlcv.runtime.results.draw import palette
from dlcv.train.data import part_of
from dlcv.train.folders.layout import (
    SHARE,
    FolderData,
    Splits,
    held_out_note,
    image_names,
    splits_of,
)

_IMAGES = ("images", "imgs")
_MASKS = ("masks", "labels", "annotations")
_SUFFIX = "_mask"  # after an image's name, in the masks of some
_LAYOUT = "FOLDER/train/images, FOLDER/train/masks and the same in FOLDER/val, or FOLDER/images and FOLDER/masks"
_ANY_INDEX = MaskCoding(classes=256)


@dataclass(frozen=True, kw_only=True)
class _Masks:
    """What the masks of a split hold: their class indices without the ignored one, and their sizes (height, width)."""

    indices: frozenset[int]
    has_ignored: bool
    sizes: Counter[tuple[int, int]]


def segment_data(folder: Path, *, names: tuple[str, ...] | None) -> FolderData:
    """Look at a folder of images and masks, and read all masks. names: of the classes in order, if they are given.

    Raises:
        RecipeError: the folder is of another layout, an image has no mask or the reverse, masks are not of class
            indices, or their classes do not fit.
    """
    splits = splits_of(folder)
    patterns = _patterns(folder / splits.train)
    items = _pairs(folder / splits.train, patterns)
    notes: list[str] = []
    if splits.validation:
        train, validation = items, _pairs(folder / splits.validation, patterns)
    else:
        train, validation = (part_of(items, SHARE, held_out=held) for held in (False, True))
        if not validation:
            raise RecipeError(
                f"{folder} has one image only, and some are needed for validation; add more"
            )
        notes.append(held_out_note(len(train), len(validation), each="all"))
    known, asked = _read(train), _read(validation)
    classes = _classes(known, asked, names=names)
    if unseen := [
        f"{n} ({classes[n].name})" for n in range(len(classes)) if n not in known.indices
    ]:
        notes.append(f"no training mask holds class {', '.join(unseen)}")
    return FolderData(
        data=_settings(splits, patterns),
        classes=classes,
        train_images=len(train),
        size=(known.sizes + asked.sizes).most_common(1)[0][0],
        notes=tuple(notes),
    )


def _settings(splits: Splits, patterns: tuple[str, str]) -> dict[str, str]:
    return {
        "name": "pairs",
        **splits.settings(),
        "images": patterns[0],
        "masks": patterns[1],
        "mask_coding": "index",
    }


def _patterns(path: Path) -> tuple[str, str]:
    """Return the patterns of images and masks in a folder.

    Raises:
        RecipeError: it has no such folders, or no images.
    """
    children = {child.name.lower(): child.name for child in path.iterdir() if child.is_dir()}
    images = next((children[name] for name in _IMAGES if name in children), None)
    masks = next((children[name] for name in _MASKS if name in children), None)
    if images is None or masks is None:
        missing = "images" if images is None else "masks"
        raise RecipeError(f"{path} has no folder {missing}; expected {_LAYOUT}")
    if not image_names(path / images):
        raise RecipeError(f"{path / images} holds no images; expected {_LAYOUT}")
    found = image_names(path / masks)
    are_suffixed = bool(found) and all(mask.stem.endswith(_SUFFIX) for mask in found)
    end = f"{_SUFFIX}{found[0].suffix}" if are_suffixed else ".*"
    return f"{images}/{{}}.*", f"{masks}/{{}}{end}"


def _pairs(path: Path, patterns: tuple[str, str]) -> list[LabelledImage]:
    try:
        return image_mask_pairs(path, patterns)
    except InputError as e:
        raise RecipeError(
            f"{e}; an image and its mask have the same name, such as images/a.jpg and masks/a.png"
        ) from e


def _read(items: Sequence[LabelledImage]) -> _Masks:
    """Read all masks of a split.

    Raises:
        RecipeError: one is damaged, or not of class indices.
    """
    present = np.zeros(256, bool)
    sizes: Counter[tuple[int, int]] = Counter()
    for item in items:
        data = item.read_mask() if item.read_mask else b""
        try:
            labels = decoded_mask(data, _ANY_INDEX, name=item.mask).labels
        except InputError as e:
            raise RecipeError(
                f"{e}; save masks as PNG files of mode L or P whose pixels are 0, 1, ..."
            ) from e
        present[np.unique(labels)] = True
        sizes[labels.shape[0], labels.shape[1]] += 1
    indices = frozenset(int(n) for n in np.flatnonzero(present) if n != IGNORED)
    return _Masks(indices=indices, has_ignored=bool(present[IGNORED]), sizes=sizes)


def _classes(
    train: _Masks, validation: _Masks, *, names: tuple[str, ...] | None
) -> tuple[ClassInfo, ...]:
    found = train.indices | validation.indices
    if names is None:
        _require_classes(train, found)
    count = len(names) if names else max(found) + 1
    if max(found, default=0) >= count:
        raise RecipeError(
            f"masks hold class {max(found)}, and {count} class names are given, for 0..{count - 1}; name all classes"
        )
    if only := sorted(validation.indices - train.indices):
        raise RecipeError(
            f"class {only[0]} is in masks for validation and in none for training; move images with it to train"
        )
    chosen = names or _names(count)
    plain = tuple(ClassInfo(name=name) for name in chosen)
    colors = palette(plain).tolist()
    return tuple(
        ClassInfo(name=name, color=tuple(color))
        for name, color in zip(chosen, colors, strict=False)
    )


def _require_classes(train: _Masks, found: frozenset[int]) -> None:
    """Check that masks hold two or more classes, numbered without large gaps."""
    if len(found) < 2:
        why = (
            " and 255, which is ignored; write 1 for the foreground instead"
            if train.has_ignored
            else "; a segmenter needs two or more classes, the background among them"
        )
        raise RecipeError(f"masks hold class {', '.join(map(str, found)) or 'none'} only{why}")
    if max(found) >= 2 * len(found):
        values = ", ".join(map(str, sorted(found)))
        raise RecipeError(
            f"masks hold the values {values}; number the classes 0, 1, ... or name all {max(found) + 1} with --classes"
        )


def _names(count: int) -> tuple[str, ...]:
    if count == 2:
        return "background", "foreground"
    return tuple(f"class {number}" for number in range(count))
