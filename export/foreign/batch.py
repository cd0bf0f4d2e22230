"""Free a graph that was written for a batch of 1: its constants say so in a few places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcv.export.foreign.entry import Entry
from dlcv.export.foreign.taps import tensors_from

Array: TypeAlias = "np.ndarray[Any, Any]"
Shapes: TypeAlias = Mapping[str, list[int]]


def free_batch(model: onnx.ModelProto, entry: Entry) -> None:
    """Change Reshape, Resize and Squeeze nodes so that the first axis may have any length.

    model: at opset 18 or more, where operators take axes as inputs; its input declares one image.
    Whether that was enough is for the parity gate to say, which runs two batch sizes.
    """
    constants = _constants(model.graph)
    shapes = _shapes_of_one(model)
    computed = tensors_from(model.graph, entry.name)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for number, node in enumerate(nodes):
        if node.input and node.input[0] in computed:
            prefix = f"{entry.name}.freed_{number}"
            _free_node(model.graph, node, prefix=prefix, constants=constants, shapes=shapes)
        model.graph.node.append(node)


def _free_node(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    *,
    prefix: str,
    constants: Mapping[str, Array],
    shapes: Shapes,
) -> None:
    """Give a node, which is not in the graph yet, other constants where it needs them."""
    before = shapes.get(node.input[0])
    position, values = None, None
    if node.op_type == "Reshape" and node.input[1] in constants:
        position, values = 1, _reshaped(constants[node.input[1]], before)
    elif node.op_type == "Squeeze" and before:
        given = constants.get(node.input[1]) if len(node.input) > 1 else None
        axes = [i for i, n in enumerate(before) if n == 1] if given is None else given.tolist()
        position, values = 1, np.array([axis for axis in axes if axis % len(before)], np.int64)
    elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in constants:
        position, values = 3, constants[node.input[3]][1:]
    if position is None or values is None:
        return
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), prefix))
    node.input.extend([""] * (position + 1 - len(node.input)))
    node.input[position] = prefix
    if node.op_type == "Resize":
        node.input[position] = _add_sizes(graph, node.input[0], prefix)


def _add_sizes(graph: onnx.GraphProto, image: str, sizes: str) -> str:
    """Put the batch before the other sizes; TensorRT does not parse a Resize with `axes` here."""
    batch, joined = f"{sizes}_batch", f"{sizes}_sizes"
    graph.node.append(helper.make_node("Shape", [image], [batch], start=0, end=1))
    graph.node.append(helper.make_node("Concat", [batch, sizes], [joined], axis=0))
    return joined


def _reshaped(shape: Array, before: list[int] | None) -> Array | None:
    """Let the first axis follow from the others, or from that of the input."""
    if shape.size == 1 and before and before[0] == 1:
        return np.array([0, -1], np.int64)
    if shape.size and shape[0] >= 1 and -1 not in shape:
        return np.array([-1, *shape[1:]], np.int64)
    if shape.size and shape[0] == 1:
        return np.array([0, *shape[1:]], np.int64)
    return None


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    small = {name: t for name, t in tensors.items() if t.data_type == onnx.TensorProto.INT64}
    return {name: numpy_helper.to_array(t) for name, t in small.items()}


def _shapes_of_one(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Infer the shapes for one image, where that can be done without running."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
