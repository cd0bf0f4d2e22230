"""Helpers on ONNX graphs for all precisions: node names, float tensors, constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from dlcv.runtime.errors import BundleError

Array: TypeAlias = "np.ndarray[Any, Any]"
COMPUTE = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm"))


def prepared_model(data: bytes) -> onnx.ModelProto:
    """Return a graph with constants as initializers, those stored in 16 bits in fp32, and a name for every node.

    Raises:
        BundleError: it is not an ONNX graph, or has branches or loops, which are not converted.
    """
    try:
        model = onnx.load_from_string(data)
    except Exception as e:  # protobuf's own error class is not public
        raise BundleError(f"the fp32 graph is not an ONNX file: {e}") from e
    graph = model.graph
    nested = [n.op_type for n in graph.node for a in n.attribute if a.HasField("g") or a.graphs]
    if nested:
        raise BundleError(
            f"the graph has a {nested[0]} with a graph inside, which cannot be converted; "
            "export the bundle without branches and loops"
        )
    nodes = list(graph.node)
    del graph.node[:]
    for number, node in enumerate(nodes):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            node.name = node.name or f"{node.op_type}_{number}"
            graph.node.append(node)
    fold_casts(model)
    return model


def fold_casts(model: onnx.ModelProto) -> None:
    """Replace each Cast of an initializer by its result, as an initializer under the name of the Cast's output.

    So weights that are stored in fp16 and cast to fp32 become fp32 weights.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Cast" or node.input[0] not in stored or node.output[0] in outputs:
            model.graph.node.append(node)
            continue
        to = next(a.i for a in node.attribute if a.name == "to")
        array = numpy_helper.to_array(stored[node.input[0]])
        kind = onnx.helper.tensor_dtype_to_np_dtype(to)
        tensor = numpy_helper.from_array(array.astype(kind), node.output[0])
        model.graph.initializer.append(tensor)
        stored[tensor.name] = tensor
    drop_unused_constants(model)


def constants_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all float32 tensors, by type inference: inputs, outputs, initializers and intermediates.

    Raises:
        BundleError: the types do not fit together.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as e:
        raise BundleError(f"the fp32 graph's types cannot be inferred: {e}") from e
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    names = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    kind = onnx.TensorProto.FLOAT
    return names | {t.name for t in inferred.initializer if t.data_type == kind}


def activations(model: onnx.ModelProto, floats: set[str]) -> list[str]:
    """Return the float tensors that nodes compute, in the graph's order."""
    return [name for node in model.graph.node for name in node.output if name in floats]


def drop_unused_constants(model: onnx.ModelProto) -> None:
    """Remove the initializers that no node reads."""
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def checked_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise a model after a full check of its operators, types and shapes."""
    del model.graph.value_info[:]  # these are outdated after type changes; engines infer them
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def producers_of(model: onnx.ModelProto) -> Mapping[str, onnx.NodeProto]:
    """Return the node that computes each tensor."""
    return {name: node for node in model.graph.node for name in node.output}
