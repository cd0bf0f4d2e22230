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

IGNORED = 255  # in masks: a pixel that does not count

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Color: TypeAlias = tuple[int, int, int]
Strays: TypeAlias = "Counter[int | Color]"

_FORMATS = ("PNG", "TIFF", "BMP")  # lossless: a JPEG's colours are no longer those of the classes
_COLORED = {"RGB", "RGBA"}
_STRAYS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MaskCoding:
    """What the values in mask files mean.

    colors: of the classes in order, for masks coded by colour; None for masks of class indices.
    ignore_labels, ignore_colors: values of either coding that do not count. Label 255 never does.
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


def mask_coding_from_classes(classes: Sequence[ClassInfo]) -> MaskCoding:
    """Return the coding of masks of which the classes are all that is known, as those beside a bundle."""
    colors = tuple(info.color for info in classes if info.color is not None)
    are_distinct = len(set(colors)) == len(classes)
    return MaskCoding(classes=len(classes), colors=colors if are_distinct else None, by_file=True)


@dataclass(frozen=True, kw_only=True)
class DecodedMask:
    """labels: uint8 (H, W), class indices, 255 = ignored. strays: pixels of each value that is not in the coding."""

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
            if file.mode not in {"L", "P"}:
                raise InputError(_wrong_mode(file.mode, coding, name=name))
            indices = np.array(file)
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
    return f"mask {name} has mode {mode}; it must have one 8-bit channel of class indices{why}"


def _from_indices(indices: Mask, coding: MaskCoding, *, name: str) -> DecodedMask:
    indices[np.isin(indices, coding.ignore_labels)] = IGNORED
    stray = (indices >= coding.classes) & (indices != IGNORED)
    if stray.any() and not coding.by_file:
        raise InputError(
            f"mask {name} holds label {indices[stray].max()}; classes are 0..{coding.classes - 1},"
            f" ignored {', '.join(map(str, coding.ignore_labels)) or 'none'}"
        )
    strays: Strays = Counter(indices[stray].tolist())
    indices[stray] = IGNORED
    return DecodedMask(labels=indices, strays=strays)


def _from_colors(pixels: Mask, coding: MaskCoding) -> DecodedMask:
    """Look colours up as 24-bit numbers in a sorted table."""
    colors = [*(coding.colors or ()), *coding.ignore_colors]
    values = [*range(coding.classes), *[IGNORED] * (len(colors) - coding.classes)]
    table = dict(zip((_number(color) for color in colors), values, strict=True))
    known = np.array(sorted(table), np.uint32)
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    numbers = red << 16 | green << 8 | blue
    places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    stray = known[places] != numbers
    labels = np.array([table[number] for number in sorted(table)], np.uint8)[places]
    labels[stray] = IGNORED
    found, counts = np.unique(numbers[stray], return_counts=True)
    strays: dict[int | Color, int] = {
        (number >> 16, number >> 8 & 255, number & 255): count
        for number, count in zip(found.tolist(), counts.tolist(), strict=True)
    }
    return DecodedMask(labels=labels, strays=Counter(strays))


def _number(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
