"""Selects tensors inside a graph as the bundle's outputs: the main output and the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from dlcv.runtime.errors import InputError

# the operators of a last linear layer: positions of the data, of its scale and zero point, of the weights
_LINEAR = {
    "Gemm": (0, None, 1),
    "MatMul": (0, None, 1),
    "Conv": (0, None, 1),
    "QLinearMatMul": (0, (1, 2), 3),
    "QLinearConv": (0, (1, 2), 3),
}


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A tensor of the file's graph. A quantised one also has the names of its scale and zero point."""

    tensor: str
    quantized: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """The name of the float tensor."""
        return f"{self.tensor}.tapped" if self.quantized else self.tensor


def output_tap(model: onnx.ModelProto, name: str | None) -> Tap:
    """Return the main output: the only output, or the named tensor.

    Raises:
        InputError: there are several and none is named, or there is none of that name.
    """
    outputs = [value.name for value in model.graph.output]
    if name is not None:
        _require_tensor(model, name, option="--output")
        return Tap(tensor=name)
    if len(outputs) != 1:
        raise InputError(
            f"the graph has {len(outputs)} outputs; name one by --output: {', '.join(outputs)}"
        )
    return Tap(tensor=outputs[0])


def embedding_tap(
    model: onnx.ModelProto, output: Tap, *, image: str, name: str | None
) -> Tap | None:
    """Return the input of the last linear layer before the output, or the named tensor; None without such a layer.

    Raises:
        InputError: there is no tensor of that name.
    """
    if name is not None:
        _require_tensor(model, name, option="--embedding")
        return Tap(tensor=name)
    computed = tensors_from(model.graph, image)
    before = {output.tensor}
    for node in reversed(model.graph.node):
        if before.isdisjoint(node.output):
            continue
        before.update(node.input)
        if node.op_type in _LINEAR:
            data, quantized, weights = _LINEAR[node.op_type]
            if node.input[data] in computed and node.input[weights] not in computed:
                scale = tuple(node.input[i] for i in quantized) if quantized else None
                return Tap(
                    tensor=node.input[data], quantized=(scale[0], scale[1]) if scale else None
                )
    return None


def tensors_from(graph: onnx.GraphProto, image: str) -> set[str]:
    """Return the tensors that depend on the image, including the image."""
    computed = {image}
    for node in graph.node:
        if not computed.isdisjoint(node.input):
            computed.update(node.output)
    return computed


def with_taps(model: onnx.ModelProto, taps: Sequence[Tap]) -> onnx.ModelProto:
    """Return a copy of the model whose only outputs are the tapped tensors."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    for tap in dict.fromkeys(taps):
        if tap.quantized:
            node = helper.make_node("DequantizeLinear", [tap.tensor, *tap.quantized], [tap.name])
            tapped.graph.node.append(node)
        tapped.graph.output.append(helper.make_empty_tensor_value_info(tap.name))
    return tapped


def _require_tensor(model: onnx.ModelProto, name: str, *, option: str) -> None:
    tensors = [output for node in model.graph.node for output in node.output if output]
    if name not in tensors:
        raise InputError(
            f"{option}: the graph computes no tensor {name!r}; its last ones are {', '.join(tensors[-4:])}"
        )
