"""Mask files as class indices: coded by index or by colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images.file_formats import opened

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import ClassInfo

IGNORED = 255  # in masks of at most 256 classes: a pixel that does not count
_MANY = 1 << 8  # more classes than this need 16 bits

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]] | np.ndarray[Any, np.dtype[np.uint16]]"
Color: TypeAlias = tuple[int, int, int]
Strays: TypeAlias = "Counter[int | Color]"

_FORMATS = ("PNG", "TIFF", "BMP")  # lossless: a JPEG's colours are no longer those of the classes
_COLORED = {"RGB", "RGBA"}
_SIXTEEN_BITS = {"I;16", "I;16B", "I"}
_STRAYS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MaskCoding:
    """What the values in mask files mean.

    colors: of the classes in order, for masks coded by colour; None for masks of class indices.
    ignore_labels, ignore_colors: values of either coding that do not count. `ignored_label` never does.
    by_file: nothing else is known of the masks, so RGB files are coded by colour and others by index, and
        labels of no class do not count, as colours of none never do; otherwise they are errors.
    """

    classes: int
    colors: tuple[Color, ...] | None = None
    ignore_labels: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()
    by_file: bool = False

    def __post_init__(self) -> None:
        colors = [*(self.colors or ()), *self.ignore_colors]
        if twice := [color for color in colors if colors.count(color) > 1]:
            raise InputError(
                f"color {twice[0]} stands for two classes, or for one and for what is ignored"
            )


def ignored_label(classes: int) -> int:
    """Return the label of a pixel that does not count: 255, or 65,535 where there are more than 256 classes."""
    return IGNORED if classes <= _MANY else (1 << 16) - 1


def mask_coding_from_classes(classes: Sequence[ClassInfo]) -> MaskCoding:
    """Return the coding of masks of which the classes are all that is known, as those beside a bundle."""
    colors = tuple(info.color for info in classes if info.color is not None)
    are_distinct = len(set(colors)) == len(classes)
    return MaskCoding(classes=len(classes), colors=colors if are_distinct else None, by_file=True)


@dataclass(frozen=True, kw_only=True)
class DecodedMask:
    """labels: uint8 (H, W), or uint16 of more than 256 classes: class indices, or `ignored_label`.

    strays: pixels of each value that is not in the coding.
    """

    labels: Mask
    strays: Strays


def decoded_mask(data: bytes, coding: MaskCoding, *, name: str) -> DecodedMask:
    """Decode a mask file. Pixels of a colour that is neither a class's nor ignored are counted and ignored.

    Raises:
        InputError: it is not readable, not of the coding, or holds an index of no class.
    """
    try:
        with opened(data, formats=_FORMATS) as file:
            if coding.colors is not None and (not coding.by_file or file.mode in _COLORED):
                return _from_colors(np.asarray(file.convert("RGB")), coding)
            if file.mode not in {"L", "P"} | (_SIXTEEN_BITS if coding.classes > _MANY else set()):
                raise InputError(_wrong_mode(file.mode, coding, name=name))
            indices = np.array(file)
            if coding.classes > _MANY:
                indices = indices.clip(0, ignored_label(coding.classes)).astype(np.uint16)
    except ImageError as e:
        raise InputError(f"mask {name} is not a readable image: {e}") from e
    return _from_indices(indices, coding, name=name)


def stray_note(strays: Strays) -> str:
    """Return how many pixels of which values do not count, the most frequent first, as a sentence."""
    most = strays.most_common(_STRAYS_SHOWN)
    counts = [
        f"{count:,} of {'label' if isinstance(value, int) else 'color'} {value}"
        for value, count in most
    ]
    more = ["..."] if len(strays) > len(most) else []
    return (
        f"{strays.total():,} mask pixels are of no class and are ignored: "
        f"{', '.join([*counts, *more])}"
    )


def _wrong_mode(mode: str, coding: MaskCoding, *, name: str) -> str:
    why = ", for the classes have no color each" if coding.by_file and mode in _COLORED else ""
    bits = "8" if coding.classes <= _MANY else "16"
    return f"mask {name} has mode {mode}; it must have one {bits}-bit channel of class indices{why}"


def _from_indices(indices: Mask, coding: MaskCoding, *, name: str) -> DecodedMask:
    ignored = ignored_label(coding.classes)
    indices[np.isin(indices, coding.ignore_labels)] = ignored
    stray = (indices >= coding.classes) & (indices != ignored)
    if stray.any() and not coding.by_file:
        raise InputError(
            f"mask {name} holds label {indices[stray].max()}; classes are 0..{coding.classes - 1},"
            f" ignored {', '.join(map(str, coding.ignore_labels)) or 'none'}"
        )
    strays: Strays = Counter(indices[stray].tolist())
    indices[stray] = ignored
    return DecodedMask(labels=indices, strays=strays)


def _from_colors(pixels: Mask, coding: MaskCoding) -> DecodedMask:
    """Look colours up as 24-bit numbers in a sorted table."""
    colors = [*(coding.colors or ()), *coding.ignore_colors]
    ignored = ignored_label(coding.classes)
    values = [*range(coding.classes), *[ignored] * (len(colors) - coding.classes)]
    table = dict(zip((_number(color) for color in colors), values, strict=True))
    known = np.array(sorted(table), np.uint32)
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    numbers = red << 16 | green << 8 | blue
    places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    stray = known[places] != numbers
    labels = np.array([table[number] for number in sorted(table)], np.min_scalar_type(ignored))[
        places
    ]
    labels[stray] = ignored
    found, counts = np.unique(numbers[stray], return_counts=True)
    strays: dict[int | Color, int] = {
        (number >> 16, number >> 8 & 255, number & 255): count
        for number, count in zip(found.tolist(), counts.tolist(), strict=True)
    }
    return DecodedMask(labels=labels, strays=Counter(strays))


def _number(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
