"""The resize of a bundle as nodes: two matrix products, columns and then rows, each rounded as Pillow rounds."""

from __future__ import annotations

from typing import final

import numpy as np

from dlcv.export.any_size.drift import add_drift, first_row
from dlcv.export.any_size.sizes import Axis, Scalars, axes
from dlcv.export.any_size.weights import (
    SUPPORT,
    Span,
    add_inside,
    add_positions,
    add_weights,
    needed_span,
    whole_span,
)
from dlcv.export.onnx_import.nodes import Nodes
from dlcv.runtime.bundle.schema import Preprocessing


def add_resize(nodes: Nodes, image: str, *, preprocessing: Preprocessing) -> str:
    """Add the nodes that resize a photo as `dlcv.runtime.images` does, and return their output.

    image: uint8 (1, H, W, C), cast to float32 before anything else. The output is float32 (1, h, w, C), whole numbers in
    0..255; h and w are numbers, but for resize `longest_side`.
    """
    scalars = Scalars(nodes)
    pixels = nodes.floats(image)
    shape = nodes.add("Shape", pixels)
    height, width = (nodes.add("Gather", shape, scalars.name(axis), axis=0) for axis in (1, 2))
    rows, columns = axes(scalars, preprocessing, size=(height, width))
    sides = [
        _Side(nodes, scalars, axis, preprocessing=preprocessing, is_rows=axis is rows)
        for axis in (rows, columns)
    ]
    if preprocessing.resize == "center_crop":
        pixels = _sliced(nodes, scalars, pixels, [side.span for side in sides])
    pixels = nodes.add("Transpose", pixels, perm=[0, 3, 1, 2])  # (1, C, H, W)
    wide, tall = sides[1].weights, sides[0].weights
    parts = [nodes.add("MatMul", pixels, weights) for weights in (wide.high, wide.low)]
    pixels = _rounded(nodes, *parts)  # (1, C, H, w)
    parts = [nodes.add("MatMul", weights, pixels) for weights in (tall.high, tall.low)]
    pixels = _rounded(nodes, *parts)  # (1, C, h, w)
    if preprocessing.resize == "letterbox":
        pixels = _padded(nodes, pixels, preprocessing, inside=[side.inside for side in sides])
    return nodes.add("Transpose", pixels, perm=[0, 2, 3, 1])


@final
class _Side:
    """What an axis adds: its weights, the span of pixels that they read, and which of its results a letterbox fills.

    inside: bool (taken), of a letterbox; else empty.
    """

    def __init__(
        self,
        nodes: Nodes,
        scalars: Scalars,
        axis: Axis,
        *,
        preprocessing: Preprocessing,
        is_rows: bool,
    ) -> None:
        self.span, self.inside, drift = whole_span(axis), "", ""
        positions = add_positions(nodes, scalars, first=axis.first, count=axis.taken)
        if preprocessing.resize == "letterbox":
            positions, self.inside = add_inside(nodes, positions, axis)
        if preprocessing.resize == "center_crop":
            support = SUPPORT[preprocessing.resample]
            self.span = needed_span(scalars, axis, support=support)
            base = first_row(scalars, axis, support=support) if is_rows else 0
            drift = add_drift(nodes, scalars, axis, base=base)
        self.weights = add_weights(
            nodes,
            axis,
            read=add_positions(nodes, scalars, first=self.span.start, count=self.span.count),
            positions=positions,
            resample=preprocessing.resample,
            read_first=not is_rows,
            drift=drift,
        )


def border_color(preprocessing: Preprocessing) -> tuple[int, ...]:
    """Return the colour of a border by channel, as Pillow converts it to greyscale where there is one channel."""
    red, green, blue = preprocessing.pad
    if preprocessing.channels == 3:
        return red, green, blue
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16,)


def _sliced(nodes: Nodes, scalars: Scalars, pixels: str, spans: list[Span]) -> str:
    """Add the part of (1, H, W, C) that is read."""
    one = nodes.constant(np.array([1], np.int64))

    def vector(values: list[str]) -> str:
        return nodes.add("Concat", *(nodes.add("Reshape", v, one) for v in values), axis=0)

    starts = [scalars.name(span.start) for span in spans]
    ends = [scalars.add(span.start, span.count) for span in spans]
    sides = nodes.constant(np.array([1, 2], np.int64))
    return nodes.add("Slice", pixels, vector(starts), vector(ends), sides)


def _rounded(nodes: Nodes, high: str, low: str) -> str:
    """Add the sum of two products, rounded to 0..255, halves up: what Pillow does after each pass.

    high has multiples of 2^-11, and low of 2^-22: float32 does not hold their sum, but that of low and high's fraction.
    """
    half, lowest, highest = (nodes.constant(np.array(v, np.float32)) for v in (0.5, 0, 255))
    raised = nodes.add("Add", high, half)
    whole = nodes.add("Floor", raised)
    carried = nodes.add("Floor", nodes.add("Add", nodes.add("Sub", raised, whole), low))
    return nodes.add("Clip", nodes.add("Add", whole, carried), lowest, highest)


def _padded(nodes: Nodes, pixels: str, preprocessing: Preprocessing, *, inside: list[str]) -> str:
    """Add the border to (1, C, h, w). inside: bool (h) and (w), where the image is."""
    rows = nodes.add("Unsqueeze", inside[0], nodes.constant(np.array([1], np.int64)))  # (h, 1)
    color = np.array(border_color(preprocessing), np.float32).reshape(1, -1, 1, 1)
    is_image = nodes.add("And", rows, inside[1])
    return nodes.add("Where", is_image, pixels, nodes.constant(color))
