"""Conversion to fp16 and bf16, explicitly typed, so that strongly typed engines run the graph unchanged.

A plan says which nodes compute in 16 bits. Two graphs are made from it: the real one, and a rehearsal, an fp32
graph that rounds every tensor to 16 bits. The gate runs the rehearsal, because CPU engines compute 16-bit
graphs in fp32 without rounding in between, and would hide an overflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.precision.nodes import (
    COMPUTE,
    Array,
    checked_bytes,
    constants_of,
    drop_unused_constants,
    float_tensors,
)

Half: TypeAlias = Literal["fp16", "bf16"]
Ranges: TypeAlias = Mapping[str, float]  # largest absolute value, by tensor

SENSITIVE = frozenset(
    (
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "Resize",
        "ReduceSum",
        "ReduceL2",
        "Exp",
        "Log",
        "Pow",
        "CumSum",
    )
)
_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_LARGEST = {"fp16": 65504.0, "bf16": 3.3895e38}
_SMALLEST = {"fp16": 2.0**-14, "bf16": 2.0**-126}  # normal: engines may flush smaller ones to 0
_HEADROOM = 2.0  # margin, because other images may give larger values
_BF16_OPSET = 22  # the first opset in which Conv and pooling take bfloat16


@dataclass(frozen=True, kw_only=True)
class HalfPlan:
    """The nodes that compute in 16 bits. All other float nodes stay in fp32."""

    precision: Half
    nodes: frozenset[str]


def half_plan(
    model: onnx.ModelProto, precision: Half, *, ranges: Ranges, keep: Collection[str] = ()
) -> HalfPlan:
    """Plan the conversion of a model from `prepared_model`.

    These stay in fp32: sensitive operators; nodes with a value near the largest of the type, or with a constant
    that it cannot hold; nodes in `keep`; and cheap nodes whose inputs are all fp32 already, so that the
    normalisation before the network and the nodes after a softmax stay in fp32.

    ranges: the largest absolute value of each tensor, as measured.
    """
    floats, constants = float_tensors(model), constants_of(model)
    unfit = _unfit(ranges, constants, precision)
    halved: set[str] = set()
    half_tensors: set[str] = set()
    for node in model.graph.node:
        inputs = [name for name in node.input if name in floats]
        outputs = [name for name in node.output if name in floats]
        if not inputs or not outputs or node.op_type in SENSITIVE or node.name in keep:
            continue
        reads_half = any(name in half_tensors or name in constants for name in inputs[:1])
        reads_half = reads_half or any(name in half_tensors for name in inputs)
        if not unfit.isdisjoint((*inputs, *outputs)) or not (reads_half or node.op_type in COMPUTE):
            continue
        halved.add(node.name)
        half_tensors.update(outputs)
    return HalfPlan(precision=precision, nodes=frozenset(halved))


def half_model(model: onnx.ModelProto, plan: HalfPlan) -> bytes:
    """Return the graph in 16 bits, with fp32 inputs and outputs, and Casts between nodes of different types.

    Constants are converted here, so that none is cast at run time.
    """
    return _Writer(model, plan).write()


def rehearsal(model: onnx.ModelProto, plan: HalfPlan) -> bytes:
    """Return an fp32 graph that rounds the tensors that are 16-bit in `half_model`."""
    model = _copy(model)
    constants, floats = constants_of(model), float_tensors(model)
    nodes, rounded = list(model.graph.node), _Rounding(plan.precision)
    del model.graph.node[:]
    for node in nodes:
        if node.name not in plan.nodes:
            model.graph.node.append(node)
            continue
        for position, name in enumerate(node.input):
            if name in constants and name in floats:
                node.input[position] = rounded.constant(model, constants, name)
            elif name in floats:
                node.input[position] = rounded.tensor(model, name)
        results = [name for name in node.output if name in floats]
        for position, name in enumerate(node.output):
            node.output[position] = f"{name}.exact" if name in results else name
        model.graph.node.append(node)  # a copy: it must be complete
        for name in results:
            rounded.cast(model, f"{name}.exact", name)
    drop_unused_constants(model)
    return checked_bytes(model)


class _Rounding:
    """Adds nodes and constants that hold 16-bit values in fp32, each only once."""

    def __init__(self, precision: Half) -> None:
        self._precision: Half = precision
        self._made: set[str] = set()

    def constant(self, model: onnx.ModelProto, constants: Mapping[str, Array], name: str) -> str:
        rounded = f"{name}.{self._precision}"
        if rounded not in self._made:
            self._made.add(rounded)
            tensor = _half_tensor(constants[name], rounded, self._precision)
            array = numpy_helper.to_array(tensor).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, rounded))
        return rounded

    def tensor(self, model: onnx.ModelProto, name: str) -> str:
        rounded = f"{name}.{self._precision}"
        if rounded not in self._made:
            self._made.add(rounded)
            self.cast(model, name, rounded)
        return rounded

    def cast(self, model: onnx.ModelProto, source: str, target: str) -> None:
        kinds = ((source, f"{target}.bits", _TYPES[self._precision]), (f"{target}.bits", target, 1))
        for given, made, kind in kinds:
            node = helper.make_node("Cast", [given], [made], name=f"round {made}", to=kind)
            model.graph.node.append(node)


class _Writer:
    """Writes the 16-bit graph of a plan."""

    def __init__(self, model: onnx.ModelProto, plan: HalfPlan) -> None:
        self._model = _copy(model)
        if plan.precision == "bf16":
            self._model = onnx.version_converter.convert_version(self._model, _BF16_OPSET)
        self._plan = plan
        self._floats = float_tensors(self._model)
        self._constants = constants_of(self._model)
        self._half: set[str] = set()  # tensors that nodes give in 16 bits
        self._made: set[str] = set()  # copies of tensors and constants in the other type

    def write(self) -> bytes:
        graph = self._model.graph
        nodes, outputs = list(graph.node), {value.name for value in graph.output}
        del graph.node[:]
        for node in nodes:
            halved = node.name in self._plan.nodes
            for position, name in enumerate(node.input):
                if name in self._floats:
                    node.input[position] = self._as_needed(name, half=halved)
            ends = self._declared_half(node, outputs) if halved else {}
            graph.node.append(node)  # a copy: it must be complete
            for source, name in ends.items():
                self._cast(source, name, TensorProto.FLOAT)
        drop_unused_constants(self._model)
        return checked_bytes(self._model)

    def _as_needed(self, name: str, *, half: bool) -> str:
        """Return the name of a tensor's copy in the type that a node needs, creating it if necessary."""
        if half == (name in self._half):
            return name
        precision = self._plan.precision if half else "fp32"
        copy = f"{name}.{precision}"
        if copy not in self._made:
            self._made.add(copy)
            if name in self._constants:
                tensor = _half_tensor(self._constants[name], copy, self._plan.precision)
                self._model.graph.initializer.append(tensor)
            else:
                self._cast(name, copy, _TYPES[self._plan.precision] if half else TensorProto.FLOAT)
        return copy

    def _declared_half(self, node: onnx.NodeProto, outputs: set[str]) -> dict[str, str]:
        """Mark a node's outputs as 16-bit. Return those that are graph outputs, by their new names."""
        ends = {}
        for position, name in enumerate(node.output):
            if name in self._floats and name in outputs:
                node.output[position] = f"{name}.{self._plan.precision}"
                ends[node.output[position]] = name
                self._made.add(node.output[position])  # what the nodes in 16 bits read
            elif name in self._floats:
                self._half.add(name)
        return ends

    def _cast(self, source: str, target: str, kind: int) -> None:
        node = helper.make_node("Cast", [source], [target], name=f"cast {target}", to=kind)
        self._model.graph.node.append(node)


def _unfit(ranges: Ranges, constants: Mapping[str, Array], precision: Half) -> set[str]:
    """Return the tensors with values that the type cannot hold."""
    largest, smallest = _LARGEST[precision], _SMALLEST[precision]
    unfit = {name for name, value in ranges.items() if not value * _HEADROOM < largest}
    for name, array in constants.items():
        if array.dtype != np.float32 or not array.size:
            continue
        peak = float(np.abs(array).max())
        if largest < peak < np.inf or 0 < peak < smallest:
            unfit.add(name)
    return unfit


def _half_tensor(array: Array, name: str, precision: Half) -> TensorProto:
    kind = helper.tensor_dtype_to_np_dtype(_TYPES[precision])
    return numpy_helper.from_array(array.astype(kind), name)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def kept_nodes(model: onnx.ModelProto, nodes: Iterable[str]) -> tuple[str, ...]:
    """Return the float nodes of a graph that are not in `nodes`, in the graph's order."""
    floats, converted = float_tensors(model), set(nodes)
    return tuple(
        node.name
        for node in model.graph.node
        if node.name not in converted and any(name in floats for name in node.output)
    )
