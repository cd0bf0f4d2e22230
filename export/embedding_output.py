"""Finds the embedding in a classifier's graph: the input of the matrix product that gives the logits."""

from __future__ import annotations

from dataclasses import replace

import onnx

from dlcv.export.writing import ExportedGraph
from dlcv.runtime.bundle.schema import TensorSpec

_ACTIVATIONS = ("Softmax", "Sigmoid")
_PASSING = ("Add", "Identity", "Reshape", "Flatten", "Squeeze")


def with_embedding(graph: ExportedGraph, *, width: int) -> ExportedGraph | None:
    """Return a classifier's graph with the output `embedding`, float32 (batch, width); None if it is not to be found."""
    model = onnx.load_from_string(graph.model)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    product = _product_before(makers, "probabilities", weights=weights)
    if product is None or width not in weights[product.input[1]]:
        return None
    spec = TensorSpec(name="embedding", dtype="float32", shape=("batch", width))
    model.graph.node.append(
        onnx.helper.make_node("Identity", [product.input[0]], [spec.name], name=spec.name)
    )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, list(spec.shape))
    )
    onnx.checker.check_model(model, full_check=True)
    return replace(
        graph,
        model=model.SerializeToString(deterministic=True),
        outputs=(*graph.outputs, spec),
    )


def _product_before(
    makers: dict[str, onnx.NodeProto], name: str, *, weights: dict[str, tuple[int, ...]]
) -> onnx.NodeProto | None:
    """Walk back from a tensor to a matrix product with weights, over its bias and the activation."""
    while (node := makers.get(name)) is not None:
        if node.op_type in ("Gemm", "MatMul"):
            return node if node.input[1] in weights else None
        if node.op_type not in (*_ACTIVATIONS, *_PASSING):
            return None
        name = next(n for n in node.input if n not in weights)
    return None
