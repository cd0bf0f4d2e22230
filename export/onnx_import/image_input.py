"""The image input of an ONNX file, and conversion of pixels to it in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx

from dlcv.export.onnx_import.options import Channels, ImportOptions, Layout, Scaling
from dlcv.runtime.bundle.schema import Dimension
from dlcv.runtime.errors import InputError

Array: TypeAlias = "np.ndarray[Any, Any]"

DTYPES: dict[int, type[np.generic]] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.UINT8: np.uint8,
}
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode L
_CHANNEL_AXIS: dict[Layout, int] = {"nchw": 1, "nhwc": 3}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The image input.

    kind: ONNX's element type. size: (height, width), dynamic where the graph's are. fixed_batch: the file
    declares a batch of 1.
    """

    name: str
    kind: int
    layout: Layout
    channels: Channels
    size: tuple[int, int]
    dynamic: bool
    fixed_batch: bool
    scaling: Scaling

    @property
    def sides(self) -> tuple[Dimension, Dimension]:
        """Height and width in the new graph: numbers, or symbols where it takes any size."""
        return ("height", "width") if self.dynamic else self.size

    def shape(self, batch: int | str, *, height: int | str, width: int | str) -> list[int | str]:
        """Return the input's shape."""
        depth = 1 if self.channels == "grey" else 3
        sides = [height, width]
        return [batch, depth, *sides] if self.layout == "nchw" else [batch, *sides, depth]

    def from_pixels(self, image: Array) -> Array:
        """Convert uint8 (B, H, W, 3) RGB pixels to the graph's input."""
        pixels = image.astype(np.float64)
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        elif self.channels == "grey":
            pixels = (pixels * np.array(LUMINANCE)).sum(axis=3, keepdims=True)
        scaling = self.scaling
        pixels = (pixels * scaling.scale - np.array(scaling.mean)) / np.array(scaling.std)
        if self.layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels.astype(DTYPES[self.kind]))


def entry_of(model: onnx.ModelProto, options: ImportOptions) -> Entry:
    """Return a model's image input, derived from its shape and the options.

    Raises:
        InputError: there are several inputs, or it does not take images as the options say.
    """
    value = _only_input(model.graph)
    kind = value.type.tensor_type.elem_type
    if kind not in DTYPES:
        name = onnx.TensorProto.DataType.Name(kind).lower()
        raise InputError(f"input {value.name!r} is {name}; an image is float32, float16 or uint8")
    if kind == onnx.TensorProto.UINT8 and not options.scaling.changes_nothing:
        raise InputError(
            f"input {value.name!r} is uint8 and takes pixels as they are; "
            "give --scale 1 and neither --mean nor --std"
        )
    shape = _shape(value)
    layout = _layout(shape, value.name, options)
    batch, axis = shape[0], _CHANNEL_AXIS[layout]
    if batch not in (None, 1):
        raise InputError(
            f"the graph takes batches of {batch} only; export it with a batch of 1 or a dynamic one"
        )
    sides = (shape[2], shape[3]) if layout == "nchw" else (shape[1], shape[2])
    size, dynamic = _size(sides, options)
    return Entry(
        name=value.name,
        kind=kind,
        layout=layout,
        channels=_channels(shape[axis], options),
        size=size,
        dynamic=dynamic,
        fixed_batch=batch == 1,
        scaling=options.scaling,
    )


def _only_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"a bundle's graph has one input, the image; this one has {names}")
    image: onnx.ValueInfoProto = inputs[0]
    return image


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return [None] * 4
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    if len(dims) != 4:
        raise InputError(
            f"input {value.name!r} has {len(dims)} dimensions; a batch of images has 4"
        )
    return dims


def _layout(shape: list[int | None], name: str, options: ImportOptions) -> Layout:
    fits: list[Layout] = [x for x in _CHANNEL_AXIS if shape[_CHANNEL_AXIS[x]] in (1, 3)]
    words = ", ".join("?" if d is None else str(d) for d in shape)
    if options.layout is not None:
        if shape[_CHANNEL_AXIS[options.layout]] not in (1, 3, None):
            raise InputError(
                f"input {name!r} ({words}) has neither 1 nor 3 channels by --layout {options.layout}"
            )
        return options.layout
    if len(fits) == 1:
        return fits[0]
    if not fits and None not in (shape[1], shape[3]):
        raise InputError(
            f"input {name!r} ({words}) has neither 1 nor 3 channels; it takes no photo"
        )
    raise InputError(
        f"input {name!r} ({words}) does not show where its channels are; give --layout nchw or nhwc"
    )


def _channels(depth: int | None, options: ImportOptions) -> Channels:
    grey = options.channels == "grey" if depth is None else depth == 1
    if options.channels is not None and (options.channels == "grey") != grey:
        raise InputError(
            f"the graph takes {depth} channels, which is not --channels {options.channels}"
        )
    if grey and max(len(options.scaling.mean), len(options.scaling.std)) > 1:
        raise InputError("the graph takes one channel; give --mean and --std one number each")
    return options.channels or ("grey" if grey else "rgb")


def _size(
    sides: tuple[int | None, int | None], options: ImportOptions
) -> tuple[tuple[int, int], bool]:
    """Return (height, width), and whether the new graph takes any size."""
    height, width = sides
    if height is None or width is None:
        if options.size is None:
            raise InputError("the graph takes images of any size; give --size HxW, such as 224x224")
        if any(
            fixed not in (None, given) for fixed, given in zip(sides, options.size, strict=True)
        ):
            raise InputError(f"the graph takes {height or 'any'}x{width or 'any'}; --size differs")
        return options.size, options.resize == "longest_side"
    if options.size not in (None, (height, width)):
        raise InputError(f"the graph takes {height}x{width} pixels only; leave --size out")
    if options.resize == "longest_side":
        raise InputError(
            f"--resize longest_side needs a graph of any size, this one takes {height}x{width}; "
            "give --resize letterbox, which keeps proportions too, or stretch"
        )
    return (height, width), False
