"""Makes the batch dynamic in a graph with a fixed batch of 1, by changing the constants that fix it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcv.export.onnx_import.image_input import Entry
from dlcv.export.onnx_import.intermediates import tensors_from

Array: TypeAlias = "np.ndarray[Any, Any]"
Shapes: TypeAlias = Mapping[str, list[int]]

_POSITIONS = {
    "Reshape": 1,
    "Squeeze": 1,
    "Resize": 3,
}  # position of the shape, axes or sizes among the inputs


def free_batch(model: onnx.ModelProto, entry: Entry) -> None:
    """Change Reshape, Resize and Squeeze nodes so that the first axis may have any length.

    model: at opset 18 or newer, where operators take axes as inputs; its input declares one image. The parity
    gate, which runs two batch sizes, shows whether the changes were sufficient.
    """
    constants = _constants(model.graph)
    shapes = _shapes_of_one(model)
    computed = tensors_from(model.graph, entry.name)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for number, node in enumerate(nodes):
        if node.input and node.input[0] in computed:
            change = _change(node, constants, shapes)
            if change is not None:
                _free_node(model.graph, node, change, name=f"{entry.name}.freed_{number}")
        model.graph.node.append(node)


def _free_node(
    graph: onnx.GraphProto, node: onnx.NodeProto, change: tuple[int, Array], *, name: str
) -> None:
    """Give a node, which is not in the graph yet, the constant that it needs."""
    position, values = change
    if not values.size:  # a Squeeze without axes removes every axis of length 1
        node.op_type = "Identity"
        del node.input[1:]
        return
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    node.input.extend([""] * (position + 1 - len(node.input)))
    resizes = node.op_type == "Resize"
    node.input[position] = _add_sizes(graph, node.input[0], name) if resizes else name


def _change(
    node: onnx.NodeProto, constants: Mapping[str, Array], shapes: Shapes
) -> tuple[int, Array] | None:
    """Return the input of a node to replace, and the constant to replace it by. None: nothing to change."""
    before = shapes.get(node.input[0])
    given = {i: constants[name] for i, name in enumerate(node.input) if name in constants}
    values: Array | None = None
    position = _POSITIONS.get(node.op_type, 0)
    if node.op_type == "Reshape" and position in given:
        values = _reshaped(given[position], before)
    elif node.op_type == "Squeeze" and before:
        values = _squeezed(given.get(position), before)
    elif node.op_type == "Resize" and position in given:
        values = given[position][1:]
    return None if values is None else (position, values)


def _add_sizes(graph: onnx.GraphProto, image: str, sizes: str) -> str:
    """Add the batch to the sizes. TensorRT does not parse a Resize with `axes` here."""
    batch, joined = f"{sizes}_batch", f"{sizes}_sizes"
    graph.node.append(helper.make_node("Shape", [image], [batch], start=0, end=1))
    graph.node.append(helper.make_node("Concat", [batch, sizes], [joined], axis=0))
    return joined


def _reshaped(shape: Array, before: list[int] | None) -> Array | None:
    """Return a shape whose first axis is inferred, or copied from the input."""
    if shape.size == 1 and before and before[0] == 1:
        return np.array([0, -1], np.int64)
    if shape.size and shape[0] >= 1 and -1 not in shape:
        return np.array([-1, *shape[1:]], np.int64)
    if shape.size and shape[0] == 1:
        return np.array([0, *shape[1:]], np.int64)
    return None


def _squeezed(axes: Array | None, before: list[int]) -> Array:
    """Return the axes without the first. Without axes, all axes of length 1 are meant."""
    every = [axis for axis, length in enumerate(before) if length == 1]
    named = every if axes is None else axes.tolist()
    return np.array([axis for axis in named if axis % len(before)], np.int64)


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    small = {name: t for name, t in tensors.items() if t.data_type == onnx.TensorProto.INT64}
    return {name: numpy_helper.to_array(t) for name, t in small.items()}


def _shapes_of_one(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Infer shapes for one image, as far as possible without running the graph."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
