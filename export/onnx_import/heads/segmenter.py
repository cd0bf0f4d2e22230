"""The head of segmenters: the class of each pixel, and the probability of that class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import numpy as np
from onnx import TensorProto

from dlcv.export.onnx_import.heads.activation import Activation, activation_of
from dlcv.export.onnx_import.heads.base import words_of
from dlcv.export.sources.base import threshold_for
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    from dlcv.export.onnx_import.heads.base import Findings
    from dlcv.export.onnx_import.image_input import Entry
    from dlcv.export.onnx_import.nodes import Nodes
    from dlcv.export.onnx_import.options import ImportOptions, Layout

Array: TypeAlias = "np.ndarray[Any, Any]"
_MOST_OF_8_BITS, _MOST_OF_16_BITS = 1 << 8, 1 << 16
_MASK_KINDS = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16}


@final
@dataclass(frozen=True, kw_only=True)
class SegmenterHead:
    """Gives `mask` uint8 or uint16 (B, H, W) and `confidence` float32 (B, H, W) from scores of each place.

    shape: of one image's scores, (C, h, w) or (h, w, C) as `layout` says; they are interpolated linearly. threshold: of
    one channel, from which probability on a pixel is of the second of two classes; None: a class has a channel.
    """

    shape: tuple[int, ...]
    layout: Layout
    activation: Activation
    threshold: float | None
    colors_classes: bool = field(default=True, init=False)

    @property
    def classes(self) -> int:
        """The number of classes; one channel parts two."""
        return max(_channels(self.shape, self.layout), 2)

    @property
    def mask_dtype(self) -> Literal["uint8", "uint16"]:
        """The smallest dtype that the mask's classes fit into."""
        return "uint8" if self.classes <= _MOST_OF_8_BITS else "uint16"

    def outputs(self, entry: Entry) -> tuple[TensorSpec, ...]:
        """Return the bundle's outputs in order."""
        shape = ("batch", *entry.sides)
        return (
            TensorSpec(name="mask", dtype=self.mask_dtype, shape=shape),
            TensorSpec(name="confidence", dtype="float32", shape=shape),
        )

    def answers(self, tensors: Sequence[Array], size: tuple[int, int]) -> Arrays:
        """Return the bundle's outputs for images of `size` (height, width)."""
        maps = _resized(maps_of(tensors[0], self.layout), size)
        probabilities = self.activation(maps)
        if self.threshold is None:
            mask, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        else:
            second = probabilities[:, 0].astype(np.float32)  # compared as the graph does
            mask = second >= np.float32(self.threshold)
            confidence = np.where(mask, second, 1 - second)
        return {"mask": mask.astype(self.mask_dtype), "confidence": confidence.astype(np.float32)}

    def add_to(self, nodes: Nodes, tensors: Sequence[str], entry: Entry) -> None:
        """Add the nodes that give the same as `answers`."""
        maps = nodes.floats(tensors[0])
        if self.layout == "nhwc":
            maps = nodes.add("Transpose", maps, perm=[0, 3, 1, 2])
        probabilities = self.activation.add_to(nodes, self._add_resize(nodes, maps, entry))
        axis = nodes.constant(np.array([1]))
        if self.threshold is None:
            classes = nodes.add("ArgMax", probabilities, axis=1, keepdims=0)
            nodes.add("ReduceMax", probabilities, axis, output="confidence", keepdims=0)
        else:
            second = nodes.add("Squeeze", probabilities, axis)
            classes = _add_parting(nodes, second, self.threshold)
        nodes.add("Cast", classes, output="mask", to=_MASK_KINDS[self.mask_dtype])

    def _add_resize(self, nodes: Nodes, maps: str, entry: Entry) -> str:
        sides = self.shape[1:] if self.layout == "nchw" else self.shape[:2]
        if sides == entry.size and not entry.dynamic:
            return maps
        sizes = nodes.constant(np.array(entry.size))
        if entry.dynamic:
            sizes = nodes.add("Shape", "image", start=1, end=3)
        unchanged = nodes.add("Shape", maps, start=0, end=2)  # TensorRT parses no `axes` of Resize
        sizes = nodes.add("Concat", unchanged, sizes, axis=0)
        return nodes.add("Resize", maps, "", "", sizes, mode="linear")


def segmenter_head(found: Findings) -> SegmenterHead:
    """Return the head that fits what a file gives and what the user says of it.

    Raises:
        InputError: the output is not scores of each place, has too many channels, or an option does not fit.
    """
    shape, options = found.shapes[0], found.options
    layout = _layout(shape, found.entry)
    if layout is None:
        raise InputError(
            f"the output is {words_of(shape)} for each image; segmentation needs scores of classes "
            "for each place, (C, h, w) or (h, w, C); name another tensor by --output"
        )
    channels = _channels(shape, layout)
    _require_fit(channels, options)
    name: Literal["softmax", "sigmoid"] = "sigmoid" if channels == 1 else "softmax"
    maps = [maps_of(scores, layout) for scores in found.samples]
    return SegmenterHead(
        shape=shape,
        layout=layout,
        activation=activation_of(maps, name=name, logits=options.logits),
        threshold=threshold_for(name, options.threshold),
    )


def maps_of(scores: Array, layout: Layout) -> Array:
    """Return scores as float64 (B, C, h, w)."""
    moved = scores.transpose(0, 3, 1, 2) if layout == "nhwc" else scores
    return moved.astype(np.float64)


def _add_parting(nodes: Nodes, second: str, threshold: float) -> str:
    """Add `confidence`, and return bool (B, H, W): whether a pixel is of the second class."""
    least = nodes.constant(np.array(threshold, np.float32))
    is_second = nodes.add("GreaterOrEqual", second, least)
    first = nodes.add("Sub", nodes.constant(np.array(1, np.float32)), second)
    nodes.add("Where", is_second, second, first, output="confidence")
    return is_second


def _require_fit(channels: int, options: ImportOptions) -> None:
    if channels > _MOST_OF_16_BITS:
        raise InputError(
            f"a mask has at most {_MOST_OF_16_BITS:,} classes, the output has {channels:,}; "
            "name another tensor by --output"
        )
    if channels == 1 and options.activation == "softmax":
        raise InputError(
            "the output has one channel, which a sigmoid parts into two classes; leave out --activation softmax"
        )
    if channels > 1 and (options.activation == "sigmoid" or options.threshold is not None):
        raise InputError(
            f"the output has {channels} channels, one a class, and a pixel has one class; "
            "--activation sigmoid and --threshold are for one channel, leave them out"
        )


def _channels(shape: tuple[int, ...], layout: Layout) -> int:
    return shape[0 if layout == "nchw" else 2]


def _layout(shape: tuple[int, ...], entry: Entry) -> Layout | None:
    """Return which axis holds the classes: the other two have the image's proportions."""
    if len(shape) != 3:
        return None
    fits: list[Layout] = []
    if _proportional(shape[1:], entry.size):
        fits.append("nchw")
    if _proportional(shape[:2], entry.size):
        fits.append("nhwc")
    if len(fits) == 2:
        return entry.layout
    return fits[0] if fits else None


def _proportional(sides: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return whether sides have the image's proportions, allowing for rounding up in down-sampling."""
    scale = max(sides) / max(size)
    return min(sides) > 1 and all(abs(a - b * scale) <= 1 for a, b in zip(sides, size, strict=True))


def _resized(maps: Array, size: tuple[int, int]) -> Array:
    """Resize bilinearly, with half-pixel centres: (B, C, h, w) to (B, C, *size)."""
    if maps.shape[2:] == size:
        return maps
    rows, columns = (_weights(maps.shape[2], size[0]), _weights(maps.shape[3], size[1]))
    return np.asarray(rows @ maps @ columns.T)


def _weights(before: int, after: int) -> Array:
    """Return the weights (after, before) of linear interpolation along one axis."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    return np.stack([np.interp(centres, np.arange(before), row) for row in np.eye(before)], axis=1)
