"""Puts the resize in front of a bundle's graph."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from dlcv.export.any_size.resize import add_resize
from dlcv.export.onnx_import.nodes import Nodes
from dlcv.export.onnx_import.read import nodes_of, opset_of
from dlcv.runtime.bundle.any_size import any_size_tensors
from dlcv.runtime.bundle.schema import Graph, Preprocessing, TensorSpec
from dlcv.runtime.errors import BundleError

RESIZED = "resized"
"""The additional output of a graph that is to be proved: the pixels that enter the network."""
_PREFIX = "any_size/"
_LEAST_OPSET = 13  # ReduceSum and Unsqueeze take their axes as inputs
_TAKES_PIXELS = ("Cast", "Shape")
_KINDS = {
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "float32": TensorProto.FLOAT,
}


def resized_spec(graph: Graph) -> TensorSpec:
    """Return the output `RESIZED` of a bundle's graph: uint8 (1, h, w, C)."""
    (image,) = graph.inputs
    sides = tuple(f"input_{side}" if isinstance(side, str) else side for side in image.shape[1:3])
    return TensorSpec(name=RESIZED, dtype="uint8", shape=(1, *sides, image.shape[3]))


def resizing_model(model: bytes, graph: Graph, preprocessing: Preprocessing) -> bytes:
    """Return a bundle's graph for photos of any size, with the output `RESIZED` besides its own.

    model: a variant's serialised graph. graph: its tensors.

    Raises:
        BundleError: it does not cast `image` first, or is of an opset below 13.
    """
    core = onnx.load_from_string(model)
    if opset_of(core) < _LEAST_OPSET:
        raise BundleError(
            f"the graph has opset {opset_of(core)}, a resize inside needs {_LEAST_OPSET}; import the model again with --opset 18"
        )
    nodes = Nodes(_PREFIX)
    pixels = add_resize(nodes, "image", preprocessing=preprocessing)
    _feed(core.graph, pixels)
    nodes.add("Cast", pixels, output=RESIZED, to=TensorProto.UINT8)
    described = any_size_tensors(graph)
    outputs = (*described.outputs, resized_spec(graph))
    made = helper.make_graph(
        [*nodes.nodes, *core.graph.node],
        core.graph.name,
        [_value(spec) for spec in described.inputs],
        [_value(spec) for spec in outputs],
        [*nodes.constants, *core.graph.initializer],
        sparse_initializer=core.graph.sparse_initializer,
    )
    return _checked(
        helper.make_model(
            made,
            opset_imports=core.opset_import,
            ir_version=core.ir_version,
            producer_name=core.producer_name,
            producer_version=core.producer_version,
        )
    )


def _feed(graph: onnx.GraphProto, pixels: str) -> None:
    """Let a graph read float32 pixels instead of `image`. It casts them, so their dtype makes no difference."""
    for node in nodes_of(graph):
        if "image" not in node.input:
            continue
        if node.op_type not in _TAKES_PIXELS:
            raise BundleError(
                f"the graph's node {node.name!r} ({node.op_type}) takes 'image' without a cast, which a bundle's graph must "
                "not; export it again"
            )
        node.input[:] = [pixels if name == "image" else name for name in node.input]


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _KINDS[spec.dtype], list(spec.shape))


def _checked(model: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        reason = str(e).strip().splitlines()[0]
        raise BundleError(
            f"the graph does not fit together with a resize in front: {reason}"
        ) from e
    data: bytes = model.SerializeToString(deterministic=True)
    return data
