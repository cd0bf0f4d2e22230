"""int8 quantisation by explicit symmetric quantise/dequantise pairs, placed as TensorRT expects them.

Weights are stored as int8, per output channel. Activations are int8 per tensor with zero point 0, quantised
once in front of the nodes that read them. A convolution's output is not quantised, so that its activation and a
residual sum can be fused into it. Biases, and products of two activations, stay in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcv.export.precision.nodes import (
    Array,
    checked_bytes,
    constants_of,
    drop_unused_constants,
    producers_of,
)

Method: TypeAlias = Literal["mse", "percentile", "max"]
METHODS: tuple[Method, ...] = get_args(Method)
_LEVELS = 127  # -128 is not used: symmetric
_PERCENTILE = 0.9999
_CANDIDATES = 100  # number of thresholds that "mse" tries


def quantisable_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions and matrix products of an activation with a constant, in order."""
    constants = constants_of(model)
    return [
        node
        for node in model.graph.node
        if _channel_axis(node) is not None
        and node.input[0] not in constants
        and constants.get(node.input[1], np.zeros(0)).dtype == np.float32
    ]


def quantised_model(
    model: onnx.ModelProto, thresholds: Mapping[str, float], *, keep: Collection[str] = ()
) -> bytes:
    """Return the graph with its quantisable nodes in int8, except those in `keep`.

    model: from `prepared_model`. thresholds: the absolute value that maps to 127, by activation.
    """
    writer = _Writer(model, thresholds)
    chosen = {node.name for node in quantisable_nodes(model)} - set(keep)
    return writer.write(chosen)


def threshold_from_histogram(counts: Array, largest: float, *, method: Method) -> float:
    """Return the absolute value that maps to 127; larger values saturate.

    "max" saturates nothing, "percentile" the largest 0.01 % of the values that are not 0, and "mse" minimises
    the mean squared error.

    counts: int64 (bins,) of absolute values in equal steps from 0 to `largest`.
    """
    if method == "max" or largest == 0 or not counts[1:].any():
        return largest
    if method == "percentile":
        share = np.cumsum(counts[1:]) / counts[1:].sum()
        return largest * float(np.searchsorted(share, _PERCENTILE) + 2) / len(counts)
    centres = (np.arange(len(counts)) + 0.5) * largest / len(counts)
    candidates = largest * np.linspace(1 / _CANDIDATES, 1, _CANDIDATES)
    return float(min(candidates, key=lambda threshold: _squared_error(centres, counts, threshold)))


def _squared_error(values: Array, counts: Array, threshold: float) -> float:
    step = threshold / _LEVELS
    rounded = np.minimum(np.round(values / step), _LEVELS) * step
    rounding = np.where(values < threshold, step**2 / 12, np.square(values - rounded))
    return float((counts * rounding)[1:].sum())


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """Return the axis of the output channels in a node's weights, or None if the node is not quantised."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return 1
    if node.op_type == "Gemm":
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = not values.get("transA", 0) and values.get("alpha", 1.0) == 1.0
        return (0 if values.get("transB", 0) else 1) if plain else None
    return None


class _Writer:
    def __init__(self, model: onnx.ModelProto, thresholds: Mapping[str, float]) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._thresholds = thresholds
        self._constants = constants_of(model)
        self._producers = producers_of(model)
        self._made: set[str] = set()
        self._axes: dict[str, int] = {}  # axis of the output channels, by int8 weights

    def write(self, chosen: Collection[str]) -> bytes:
        graph = self._model.graph
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            if node.name in chosen:
                axis = _channel_axis(node)
                node.input[0] = self._activation(node.input[0])
                node.input[1] = self._weights(node.input[1], axis or 0)
            elif node.op_type == "Add":
                self._share_residual(node, chosen)
            else:
                self._share_weights(node)
            graph.node.append(node)
        drop_unused_constants(self._model)
        return checked_bytes(self._model)

    def _share_residual(self, node: onnx.NodeProto, chosen: Collection[str]) -> None:
        """Let the sum after an int8 convolution read the int8 copy of the other branch, if there is one."""
        for here, other in ((0, 1), (1, 0)):
            producer = self._producers.get(node.input[other])
            copy = f"{node.input[here]}.int8"
            if producer is not None and producer.name in chosen and copy in self._made:
                node.input[here] = copy
                return

    def _share_weights(self, node: onnx.NodeProto) -> None:
        """Let other readers of the weights, such as a class activation map, read int8 too, not an fp32 copy.

        They get their own int8 copy: ONNX Runtime converts int8 weights to uint8 where the CPU has no VNNI, and
        fails on weights that two nodes share.
        """
        for position, name in enumerate(node.input):
            if name in self._axes:
                node.input[position] = self._weights(name, self._axes[name], suffix="int8.other")

    def _activation(self, name: str) -> str:
        copy = f"{name}.int8"
        if copy not in self._made:
            self._made.add(copy)
            scale = np.float32(max(self._thresholds[name], 1e-12) / _LEVELS)
            pair = self._pair(copy, scale, np.int8(0))
            self._node("QuantizeLinear", [name, *pair], f"{name}.q")
            self._node("DequantizeLinear", [f"{name}.q", *pair], copy)
        return copy

    def _weights(self, name: str, axis: int, *, suffix: str = "int8") -> str:
        copy = f"{name}.{suffix}"
        if copy not in self._made:
            self._made.add(copy)
            self._axes[name] = axis
            values, scales = quantised_weights(self._constants[name], axis)
            self._constant(f"{copy}.q", values)
            pair = self._pair(copy, scales, np.zeros(scales.shape, np.int8))
            self._node("DequantizeLinear", [f"{copy}.q", *pair], copy, axis=axis)
        return copy

    def _pair(self, name: str, scale: Array | np.float32, zero: Array | np.int8) -> list[str]:
        self._constant(f"{name}.scale", np.asarray(scale))
        self._constant(f"{name}.zero", np.asarray(zero))
        return [f"{name}.scale", f"{name}.zero"]

    def _constant(self, name: str, array: Array) -> None:
        self._model.graph.initializer.append(numpy_helper.from_array(array, name))

    def _node(self, kind: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        node = helper.make_node(kind, inputs, [output], name=f"{kind} {output}")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._model.graph.node.append(node)


def quantised_weights(weights: Array, axis: int) -> tuple[Array, Array]:
    """Return int8 weights and float32 scales (channels,); weights = int8 * scale along `axis`."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    peaks = np.abs(weights).max(axis=others)
    scales = np.where(peaks > 0, peaks / _LEVELS, 1).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
    values = np.clip(np.round(weights / scales.reshape(shape)), -_LEVELS, _LEVELS)
    return values.astype(np.int8), scales
