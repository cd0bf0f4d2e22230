"""Mask files as class indices: coded by index or by colour."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.errors import InputError

IGNORED = 255  # in masks: a pixel that does not count

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Color: TypeAlias = tuple[int, int, int]

_FORMATS = ("PNG", "TIFF", "BMP")  # lossless: a JPEG's colours are no longer those of the classes


@dataclass(frozen=True, kw_only=True)
class MaskCoding:
    """What the values in mask files mean.

    colors: of the classes in order, for masks coded by colour; None for masks of class indices.
    ignore_labels, ignore_colors: values of either coding that do not count. Label 255 never does.
    """

    classes: int
    colors: tuple[Color, ...] | None = None
    ignore_labels: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()

    def __post_init__(self) -> None:
        colors = [*(self.colors or ()), *self.ignore_colors]
        if twice := [color for color in colors if colors.count(color) > 1]:
            raise InputError(
                f"color {twice[0]} stands for two classes, or for one and for what is ignored"
            )


@dataclass(frozen=True, kw_only=True)
class DecodedMask:
    """labels: uint8 (H, W), class indices, 255 = ignored. strays: pixels of each colour of no class."""

    labels: Mask
    strays: Counter[Color]


def decoded_mask(data: bytes, coding: MaskCoding, *, name: str) -> DecodedMask:
    """Decode a mask file. Pixels of a colour that is neither a class's nor ignored are counted and ignored.

    Raises:
        InputError: it is not readable, not of the coding, or holds an index of no class.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            if coding.colors is not None:
                return _from_colors(np.asarray(file.convert("RGB")), coding)
            if file.mode not in {"L", "P"}:
                raise InputError(
                    f"mask {name} has mode {file.mode}; it must have one 8-bit channel of class indices"
                )
            indices = np.array(file)
    except (OSError, ValueError, SyntaxError) as e:
        raise InputError(f"mask {name} is not a readable image: {e}") from e
    return DecodedMask(labels=_from_indices(indices, coding, name=name), strays=Counter())


def _from_indices(indices: Mask, coding: MaskCoding, *, name: str) -> Mask:
    indices[np.isin(indices, coding.ignore_labels)] = IGNORED
    wrong = (indices >= coding.classes) & (indices != IGNORED)
    if wrong.any():
        raise InputError(
            f"mask {name} holds label {indices[wrong].max()}; classes are 0..{coding.classes - 1},"
            f" ignored {', '.join(map(str, coding.ignore_labels)) or 'none'}"
        )
    return indices


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
    strays = {
        (number >> 16, number >> 8 & 255, number & 255): count
        for number, count in zip(found.tolist(), counts.tolist(), strict=True)
    }
    return DecodedMask(labels=labels, strays=Counter(strays))


def _number(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
