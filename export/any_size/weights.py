"""The matrices that resize an axis: how much each pixel of an image counts for each pixel of the result.

As Pillow's antialiased resize (`Image.resize`), by the definition in docs/bundle.md: result pixel i has its centre at
c = (first + i + 1/2) * length / scaled in the image, and image pixel x the weight k((x - c + 1/2) / f), where f is
max(length / scaled, 1), divided by the sum of its weights. All of this is a ratio of whole numbers,

    (x - c + 1/2) / f = m / M,   m = (2 x + 1) scaled - (2 (first + i) + 1) length,   M = 2 max(length, scaled)

so k times M (bilinear) or 2 M^3 (bicubic) is a whole number too, and float32 holds it exactly up to 24 binary digits. Pillow rounds
a weight to 22 digits after the point, and that decides which way a value goes that lies half-way between two: where
length and scaled are in simple proportion (640 to 512), every tenth does. So the weights here have the same 22 digits, in
two matrices of 11: with pixels of 8 digits, float32 adds their products without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dlcv.export.any_size.sizes import Axis, Scalars, Whole, located
from dlcv.export.onnx_import.nodes import Nodes
from dlcv.runtime.bundle.schema import Resample

SUPPORT: dict[Resample, int] = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
"""Half the width of each kernel, in pixels of the smaller one of image and result."""
_DIGIT = 2.0**11  # half of the binary digits after the point of a weight in Pillow
_TINY = 1e-6  # sin(t) / t is 1 there, and not 0 / 0


@dataclass(frozen=True, kw_only=True)
class Span:
    """The pixels of an image that are read, along an axis: from `start`, `count` of them."""

    start: Whole
    count: Whole


def whole_span(axis: Axis) -> Span:
    """Return all pixels of an axis."""
    return Span(start=0, count=axis.length)


def needed_span(scalars: Scalars, axis: Axis, *, support: int) -> Span:
    """Return the pixels that a crop's result can depend on, with one more on either side."""
    per_pixel = scalars.div(
        scalars.sub(scalars.add(scalars.max(axis.length, axis.scaled), axis.scaled), 1), axis.scaled
    )  # f, rounded up
    reach = scalars.add(scalars.mul(per_pixel, support), 1)
    end = scalars.add(axis.first, axis.taken)
    first, last = (located(scalars, axis, at).whole for at in (axis.first, end))
    start = scalars.max(scalars.sub(first, reach), 0)
    stop = scalars.min(scalars.add(scalars.add(last, reach), 1), axis.length)
    return Span(start=start, count=scalars.sub(stop, start))


def add_positions(nodes: Nodes, scalars: Scalars, *, first: Whole, count: Whole) -> str:
    """Add the numbers first, first + 1, ...: float32 (count)."""
    if isinstance(count, int):
        positions = nodes.constant(np.arange(count, dtype=np.float32))
    else:
        bounds = (scalars.name(bound) for bound in (0, count, 1))
        positions = nodes.floats(nodes.add("Range", *bounds))
    return positions if first == 0 else nodes.add("Add", positions, _float(nodes, first))


def add_inside(nodes: Nodes, positions: str, axis: Axis) -> tuple[str, str]:
    """Add positions that stay in the image: those of a border are those of the pixel next to it.

    positions: float32 (taken). Returns these, and bool (taken): whether nothing was changed.
    """
    last = nodes.add("Sub", _float(nodes, axis.scaled), _float(nodes, 1))
    inside = nodes.add("Min", nodes.add("Max", positions, _float(nodes, 0)), last)
    return inside, nodes.add("Equal", inside, positions)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A matrix of weights as the sum of two, float32, whose products with whole numbers up to 255 are exact.

    high: multiples of 2^-11. low: multiples of 2^-22, at most 2^-12.
    """

    high: str
    low: str


def add_weights(
    nodes: Nodes,
    axis: Axis,
    *,
    read: str,
    positions: str,
    resample: Resample,
    read_first: bool,
    drift: str = "",
) -> Weights:
    """Add the matrices of weights, (result, read), or (read, result) if `read_first`.

    read: float32, the positions of the pixels that are read. positions: float32, those of the result in the whole image
    when it is resized. drift: float32 (result), of a crop: see `add_drift`.
    """
    along = 0 if read_first else 1
    read = nodes.add("Unsqueeze", _odd(nodes, read, axis.scaled), _axes(nodes, 1 - along))
    positions = nodes.add("Unsqueeze", _odd(nodes, positions, axis.length), _axes(nodes, along))
    larger = nodes.add("Max", _float(nodes, axis.length), _float(nodes, axis.scaled))
    one = nodes.add("Mul", larger, _float(nodes, 2))
    distance = nodes.add("Sub", read, positions)
    if drift:
        moved = nodes.add("Unsqueeze", drift, _axes(nodes, along))
        distance = nodes.add("Sub", distance, moved)
    parts = _KERNELS[resample](nodes, nodes.add("Abs", distance), one)
    return _shares(nodes, parts, nodes.add("ReduceSum", parts, _axes(nodes, along), keepdims=1))


def _shares(nodes: Nodes, parts: str, total: str) -> Weights:
    """Add parts / total, rounded to 22 binary digits: a long division by digits of 11."""
    digit, inverse = _float(nodes, _DIGIT), _float(nodes, 1 / _DIGIT)
    scaled = nodes.add("Mul", parts, digit)
    high = nodes.add("Round", nodes.add("Div", scaled, total))
    rest = nodes.add("Sub", scaled, nodes.add("Mul", high, total))
    low = nodes.add("Round", nodes.add("Div", nodes.add("Mul", rest, digit), total))
    low = nodes.add("Mul", nodes.add("Mul", low, inverse), inverse)
    return Weights(high=nodes.add("Mul", high, inverse), low=low)


def _odd(nodes: Nodes, positions: str, factor: Whole) -> str:
    """Add (2 p + 1) * factor."""
    doubled = nodes.add("Mul", positions, _float(nodes, 2))
    return nodes.add("Mul", nodes.add("Add", doubled, _float(nodes, 1)), _float(nodes, factor))


def _bilinear(nodes: Nodes, m: str, one: str) -> str:
    """1 - t, times M."""
    return nodes.add("Relu", nodes.add("Sub", one, m))


def _bicubic(nodes: Nodes, m: str, one: str) -> str:
    """With a = -1/2: 3 t^3 - 5 t^2 + 2 below 1, -t^3 + 5 t^2 - 8 t + 4 below 2, then 0; all times M^3."""
    near = _polynomial(nodes, m, one, [3, -5, 0, 2])
    far = _polynomial(nodes, m, one, [-1, 5, -8, 4])
    reached = nodes.add("Less", m, nodes.add("Mul", one, _float(nodes, 2)))
    far = nodes.add("Where", reached, far, _float(nodes, 0))
    return nodes.add("Where", nodes.add("Less", m, one), near, far)


def _polynomial(nodes: Nodes, m: str, one: str, coefficients: list[int]) -> str:
    """Add a polynomial in m / M, times M to its degree."""
    first, *rest = coefficients
    value, power = _float(nodes, first), one
    for coefficient in rest:
        term = nodes.add("Mul", power, _float(nodes, coefficient))
        value = nodes.add("Add", nodes.add("Mul", value, m), term)
        power = nodes.add("Mul", power, one)
    return value


def _lanczos(nodes: Nodes, m: str, one: str) -> str:
    """sinc(t) sinc(t / 3), which is 0 at 3, so that clipping t ends it there."""
    support = SUPPORT["lanczos"]
    t = nodes.add("Min", nodes.add("Div", m, one), _float(nodes, support))
    t = nodes.add("Max", t, _float(nodes, _TINY))
    return nodes.add("Mul", _sinc(nodes, t, math.pi), _sinc(nodes, t, math.pi / support))


def _sinc(nodes: Nodes, t: str, factor: float) -> str:
    angle = nodes.add("Mul", t, _float(nodes, factor))
    return nodes.add("Div", nodes.add("Sin", angle), angle)


_KERNELS: dict[Resample, Callable[[Nodes, str, str], str]] = {
    "bilinear": _bilinear,
    "bicubic": _bicubic,
    "lanczos": _lanczos,
}


def _float(nodes: Nodes, value: float | str) -> str:
    """Return the name of a float32 scalar: a constant, or an int64 scalar cast."""
    if isinstance(value, str):
        return nodes.floats(value)
    return nodes.constant(np.array(value, np.float32))


def _axes(nodes: Nodes, axis: int) -> str:
    return nodes.constant(np.array([axis], np.int64))
