"""Rewrites QLinear operators as quantise/dequantise pairs around standard float operators.

ONNX Runtime writes QLinear operators, some of them in its own domain, which no other engine supports. The pairs
are equivalent, including rounding, and ONNX Runtime fuses them to the same kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcv.runtime.errors import InputError

_TWO = {"QLinearConv": "Conv", "QLinearMatMul": "MatMul", "QLinearAdd": "Add", "QLinearMul": "Mul"}
_ONE = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
}
QLINEAR = frozenset((*_TWO, *_ONE, "QLinearConcat"))
_BIAS = 8  # QLinearConv's bias: int32, its scale is the product of those of image and weights


def without_qlinear(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its QLinear operators rewritten as pairs. Other models are returned unchanged.

    Raises:
        InputError: an operator has a form that ONNX's own do not have.
    """
    if not any(node.op_type in QLINEAR for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    rewriter = _Rewriter(changed)
    for node in model.graph.node:
        rewriter.add(node)
    return changed


class _Rewriter:
    """Rewrites the nodes of a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {t.name: t for t in model.graph.initializer}
        del model.graph.node[:]

    def add(self, node: onnx.NodeProto) -> None:
        if node.op_type not in QLINEAR:
            self._graph.node.append(node)
            return
        operator, operands, result = _parts(node)
        inputs = [self._dequantized(node, operand, i) for i, operand in enumerate(operands)]
        if node.op_type == "QLinearConv" and len(node.input) > _BIAS:
            inputs.append(self._bias(node))
        exact = f"{node.output[0]}.exact"
        made = helper.make_node(operator, inputs, [exact], name=node.name)
        made.attribute.extend(_attributes(node))
        self._graph.node.append(made)
        self._node("QuantizeLinear", [exact, *result], node.output[0])

    def _dequantized(self, node: onnx.NodeProto, operand: list[str], position: int) -> str:
        """Dequantise a tensor with its scale and zero point; weights per channel."""
        made = f"{node.output[0]}.operand_{position}"
        scale = self._constants.get(operand[1])
        axis = {}
        if scale is not None and len(scale.dims) == 1 and scale.dims[0] > 1:
            axis = {"axis": 0 if node.op_type == "QLinearConv" else -1}
        return self._node("DequantizeLinear", operand, made, **axis)

    def _bias(self, node: onnx.NodeProto) -> str:
        scales = [self._constants.get(node.input[position]) for position in (1, 4)]
        if scales[0] is None or scales[1] is None:
            raise InputError(f"node {node.name!r} computes its scale, which cannot be converted")
        product = numpy_helper.to_array(scales[0]) * numpy_helper.to_array(scales[1])
        product = np.asarray(product if product.size > 1 else product.reshape(()))
        name = f"{node.output[0]}.bias_scale"
        self._graph.initializer.append(numpy_helper.from_array(product, name))
        axis = {"axis": 0} if product.ndim else {}
        made = f"{node.output[0]}.bias"
        return self._node("DequantizeLinear", [node.input[_BIAS], name], made, **axis)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{operator} {output}"
        self._graph.node.append(
            helper.make_node(operator, inputs, [output], name=name, **attributes)
        )
        return output


def _parts(node: onnx.NodeProto) -> tuple[str, list[list[str]], list[str]]:
    """Return the float operator, its operands with scale and zero point, and those of the result."""
    names = list(node.input)
    if node.op_type == "QLinearConcat":
        return "Concat", [names[i : i + 3] for i in range(2, len(names), 3)], names[:2]
    if node.op_type in _TWO:
        return _TWO[node.op_type], [names[:3], names[3:6]], names[6:8]
    return _ONE[node.op_type], [names[:3]], names[3:5]


def _attributes(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    by_name: Mapping[str, onnx.AttributeProto] = {a.name: a for a in node.attribute}
    last = by_name.get("channels_last")
    if last is not None and last.i:
        raise InputError(
            f"node {node.name!r} has channels last, which ONNX's own operators have not"
        )
    return [a for name, a in by_name.items() if name != "channels_last"]
