"""Whole numbers that a graph computes from an image's shape: how large it becomes, and which part of that is taken.

They are what `dlcv.runtime.images` computes on the host, by the definition in docs/bundle.md, in exact int64 scalars. Only
Add, Sub, Mul, Div, Max and Min are used, which every engine takes on shapes, so that no size depends on the rounding of
floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np

from dlcv.export.onnx_import.nodes import Nodes
from dlcv.runtime.bundle.schema import Preprocessing

Whole: TypeAlias = int | str
"""A number that is known, or the name of an int64 scalar of the graph."""


@final
class Scalars:
    """Arithmetic on int64 scalars of a graph, none of them negative where they are divided."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._constants: dict[int, str] = {}

    def name(self, value: Whole) -> str:
        """Return the name of a scalar; a known number becomes a constant, once."""
        if isinstance(value, str):
            return value
        if value not in self._constants:
            self._constants[value] = self._nodes.constant(np.array(value, np.int64))
        return self._constants[value]

    def _of(self, operator: str, a: Whole, b: Whole) -> str:
        return self._nodes.add(operator, self.name(a), self.name(b))

    def add(self, a: Whole, b: Whole) -> str:
        """Return a + b."""
        return self._of("Add", a, b)

    def sub(self, a: Whole, b: Whole) -> str:
        """Return a - b."""
        return self._of("Sub", a, b)

    def mul(self, a: Whole, b: Whole) -> str:
        """Return a * b."""
        return self._of("Mul", a, b)

    def div(self, a: Whole, b: Whole) -> str:
        """Return a / b, rounded down."""
        return self._of("Div", a, b)

    def max(self, a: Whole, b: Whole) -> str:
        """Return the larger one."""
        return self._of("Max", a, b)

    def min(self, a: Whole, b: Whole) -> str:
        """Return the smaller one."""
        return self._of("Min", a, b)

    def remainder(self, a: Whole, b: Whole) -> str:
        """Return a - b * (a / b, rounded down)."""
        return self.sub(a, self.mul(self.div(a, b), b))

    def rounded(self, a: Whole, b: Whole) -> str:
        """Return a / b rounded to the nearest whole number, halves to the even one."""
        doubled, twice = self.add(self.mul(a, 2), b), self.mul(b, 2)
        up = self.div(doubled, twice)  # halves rounded up
        is_half = self.sub(1, self.min(self.remainder(doubled, twice), 1))
        return self.sub(up, self.mul(is_half, self.remainder(up, 2)))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Rows or columns of an image, in pixels.

    length: of the image. scaled: of the whole image when it is resized. first: which of these is the graph's first one;
    below 0 where a border comes before. taken: how many the graph takes.
    """

    length: str
    scaled: Whole
    first: Whole
    taken: Whole


def axes(
    scalars: Scalars, preprocessing: Preprocessing, *, size: tuple[str, str]
) -> tuple[Axis, Axis]:
    """Return the rows and columns of an image of `size` (height, width) as a manifest's `preprocessing` places them."""
    places = _places(scalars, preprocessing, size)
    rows, columns = (
        Axis(length=length, scaled=scaled, first=first, taken=taken)
        for length, (scaled, first, taken) in zip(size, places, strict=True)
    )
    return rows, columns


@dataclass(frozen=True, kw_only=True)
class Location:
    """A place on an axis in pixels of the image: whole + rest / denominator, of which rest is smaller than denominator."""

    whole: str
    rest: str
    denominator: str


def located(scalars: Scalars, axis: Axis, at: Whole) -> Location:
    """Return where the pixel `at` of a resized, centrally cropped axis begins: at * length / scaled.

    It is computed from the middle, length / 2 + (2 at - scaled) length / (2 scaled): the product of `at` and `length` may
    exceed 32 bits, to which some engines cut an int64.
    """
    denominator = scalars.mul(axis.scaled, 2)
    beside = scalars.mul(scalars.sub(scalars.mul(at, 2), axis.scaled), axis.length)
    widest = scalars.mul(scalars.add(axis.taken, 1), axis.length)
    shift = scalars.add(scalars.div(widest, denominator), 2)  # so that nothing negative is divided
    odd = scalars.mul(scalars.remainder(axis.length, 2), axis.scaled)
    numerator = scalars.add(scalars.add(beside, odd), scalars.mul(shift, denominator))
    whole = scalars.sub(
        scalars.add(scalars.div(axis.length, 2), scalars.div(numerator, denominator)), shift
    )
    rest = scalars.remainder(numerator, denominator)
    return Location(whole=whole, rest=rest, denominator=denominator)


_Place: TypeAlias = tuple[Whole, Whole, Whole]  # scaled, first, taken


def _places(scalars: Scalars, preprocessing: Preprocessing, size: tuple[str, str]) -> list[_Place]:
    match preprocessing.resize:
        case "stretch":
            return [_whole(side) for side in preprocessing.size]
        case "longest_side":
            longest = scalars.max(*size)
            return [_whole(_in_proportion(scalars, preprocessing, s, longest)) for s in size]
        case "center_crop":
            return _cropped(scalars, preprocessing, size)
        case "letterbox":
            return _fitted(scalars, preprocessing, size)


def _whole(side: Whole) -> _Place:
    return side, 0, side


def _in_proportion(
    scalars: Scalars, preprocessing: Preprocessing, side: str, longest: str
) -> Whole:
    """Return a side when the longest one becomes max(size), as a multiple of `multiple`, one at least."""
    multiple = preprocessing.multiple
    parts = scalars.rounded(
        scalars.mul(side, max(preprocessing.size)), scalars.mul(longest, multiple)
    )
    return scalars.mul(scalars.max(parts, 1), multiple)


def _cropped(scalars: Scalars, preprocessing: Preprocessing, size: tuple[str, str]) -> list[_Place]:
    """Cover size / crop_fraction, the side that needs the larger scale exactly, and take the middle.

    That is one formula for both sides: the side that just does is the larger of the two numbers.
    """
    least = [round(side / preprocessing.crop_fraction) for side in preprocessing.size]
    places: list[_Place] = []
    for own, other in ((0, 1), (1, 0)):
        by_other = scalars.div(scalars.mul(size[own], least[other]), size[other])
        scaled, taken = scalars.max(least[own], by_other), preprocessing.size[own]
        rest = scalars.sub(scaled, taken)
        even = preprocessing.crop_rounding == "even"
        first = scalars.rounded(rest, 2) if even else scalars.div(rest, 2)
        places.append((scaled, first, taken))
    return places


def _fitted(scalars: Scalars, preprocessing: Preprocessing, size: tuple[str, str]) -> list[_Place]:
    """Fit the whole image into size: a side is filled, or in proportion to the other one, which is."""
    places: list[_Place] = []
    for own, other in ((0, 1), (1, 0)):
        taken = preprocessing.size[own]
        by_other = scalars.rounded(scalars.mul(size[own], preprocessing.size[other]), size[other])
        scaled = scalars.max(scalars.min(taken, by_other), 1)
        before: Whole = 0
        if preprocessing.pad_at == "center":
            before = scalars.div(scalars.sub(taken, scaled), 2)
        places.append((scaled, scalars.sub(0, before), taken))
    return places
