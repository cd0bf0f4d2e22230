"""How far the borders of a cropped region move the result, because Pillow takes them in float32.

A region's borders are ratios of whole numbers. Pillow rounds them to 24 binary digits, which moves the centres of the result's
pixels by a millionth of a pixel or so. That decides which way a value goes that lies half-way between two, as in the
middle column of many crops. With the rounding of the other axis, a value would be 2 of 255 from the host's.
"""

from __future__ import annotations

import numpy as np

from dlcv.export.any_size.sizes import Axis, Scalars, Whole, located
from dlcv.export.onnx_import.nodes import Nodes


def add_drift(nodes: Nodes, scalars: Scalars, axis: Axis, *, base: Whole) -> str:
    """Add how far each centre of a crop of known size moves: float32 (taken), in pixels of the image, times 2 * scaled.

    base: the first pixel of the image that Pillow is given; borders are counted from there.
    """
    count = axis.taken
    if not isinstance(count, int):
        raise TypeError(f"a crop has a known size, not {count}")
    start, start_whole, start_part = _border(nodes, scalars, axis, at=axis.first, base=base)
    last = scalars.add(axis.first, count)
    end, end_whole, end_part = _border(nodes, scalars, axis, at=last, base=base)
    at_start = _error(nodes, start, start_whole, start_part)
    length = nodes.add("Sub", end, start)  # in float32, as Pillow computes it
    of_length = _error(
        nodes,
        length,
        nodes.add("Sub", end_whole, start_whole),
        nodes.add("Sub", end_part, start_part),
    )
    centres = nodes.constant(
        (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count)
    )
    moved = nodes.add("Add", nodes.add("Mul", centres, of_length), at_start)
    scaled = nodes.floats(scalars.name(axis.scaled))
    return nodes.add("Mul", moved, nodes.add("Add", scaled, scaled))


def first_row(scalars: Scalars, axis: Axis, *, support: int) -> str:
    """Return the first row that the host gives to Pillow for the second pass (`_region_resized` in runtime/images)."""
    top = located(scalars, axis, axis.first)
    reach = scalars.mul(scalars.max(axis.length, axis.scaled), 2 * support)
    raised = scalars.sub(scalars.add(scalars.sub(reach, top.rest), top.denominator), 1)
    rows = scalars.add(scalars.div(raised, top.denominator), 1)
    return scalars.max(scalars.sub(top.whole, rows), 0)


def _border(
    nodes: Nodes, scalars: Scalars, axis: Axis, *, at: Whole, base: Whole
) -> tuple[str, str, str]:
    """Add a border in pixels of the image, less `base`: rounded to float32, its whole part, and its fraction."""
    place = located(scalars, axis, at)
    whole = nodes.floats(scalars.sub(place.whole, base))
    part = nodes.add("Div", nodes.floats(place.rest), nodes.floats(place.denominator))
    return nodes.add("Add", whole, part), whole, part


def _error(nodes: Nodes, rounded: str, whole: str, part: str) -> str:
    """Add how far a rounded number is from whole + part."""
    return nodes.add("Sub", nodes.add("Sub", rounded, whole), part)
