"""Stores a graph's large float32 weights as float16, which halves its file; the arithmetic stays fp32.

Each tensor becomes a float16 constant and one Cast that gives it back as float32, under its old name. ONNX Runtime, OpenVINO and
TensorRT fold such Casts when they load a graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcv.runtime.bundle.schema import Storage

Array: TypeAlias = "np.ndarray[Any, Any]"

_LEAST_VALUES = 1024  # of a tensor that is worth a Cast
_LEAST_AXES = 2  # with one axis there are biases and statistics: small, and added or divided by
_HALF_STEP = 2.0**-11  # the relative error of rounding to float16, where it has all its 11 bits
_NOTHING = 2.0**-16  # of an average slice's norm


@dataclass(frozen=True, kw_only=True)
class HalfStorage:
    """A graph with its large weights in float16.

    model: serialised ONNX. is_exact: no value changed. kept: names of the large tensors that stayed float32, because float16
    cannot hold their values.
    """

    model: bytes
    is_exact: bool
    kept: tuple[str, ...]


def stored_in_half(data: bytes) -> HalfStorage:
    """Return a graph with its float32 weights of 2 or more axes and 1,024 or more values stored as float16.

    data: a serialised ONNX model. Of equal bytes the result is equal bytes. A tensor stays float32 if a value overflows or is not
    finite, or if values lose more than rounding takes from ordinary ones, because they are below 2^-14 in float16.
    """
    model = onnx.load_from_string(data)
    _make_initializers(model.graph)
    graph = model.graph
    inputs, taken = {value.name for value in graph.input}, _names(graph)
    casts: list[onnx.NodeProto] = []
    kept: list[str] = []
    is_exact = True
    for tensor in graph.initializer:
        if not _is_large(tensor, TensorProto.FLOAT) or tensor.name in inputs:
            continue
        array = numpy_helper.to_array(tensor)
        half = _half(array)
        if half is None:
            kept.append(tensor.name)
            continue
        is_exact = is_exact and bool((half.astype(np.float32) == array).all())
        stored = _free_name(f"{tensor.name}.fp16", taken)
        casts.append(_cast(stored, tensor.name))
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])  # what a Cast reads is constant, so that it may come first
    return HalfStorage(
        model=model.SerializeToString(deterministic=True), is_exact=is_exact, kept=tuple(kept)
    )


def storage_of(data: bytes) -> Storage:
    """Return how most of a graph's large weights are stored: fp16 if Casts make float32 of them all, else fp32.

    data: a serialised ONNX model.
    """
    graph = onnx.load_from_string(data).graph
    computed_with = {name for node in graph.node if not _gives_float(node) for name in node.input}
    counts: dict[int, int] = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in _constants(graph):
        if tensor.data_type == TensorProto.FLOAT16 and tensor.name in computed_with:
            return "fp32"  # it is no storage: nodes take float16
        if any(_is_large(tensor, kind) for kind in counts):
            counts[tensor.data_type] += math.prod(tensor.dims)
    return "fp16" if counts[TensorProto.FLOAT16] > counts[TensorProto.FLOAT] else "fp32"


def _half(array: Array) -> Array | None:
    """Return float32 values as float16, or None if it cannot hold them.

    Rounding ordinary values costs 2^-11 of each at most. Values below 2^-14 lose more, down to all. That is measured by slices
    along the first and the last axis, which are what one output or one input reads. A slice may lose more if it is next to
    nothing beside an average one: channels that training has switched off hold values of 1e-7 and less.
    """
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        return None
    error = half.astype(np.float64) - array
    for axis in (0, array.ndim - 1):
        others = tuple(i for i in range(array.ndim) if i != axis)
        lost, whole = (np.square(x, dtype=np.float64).sum(axis=others) for x in (error, array))
        allowed = np.maximum(_HALF_STEP**2 * whole, _NOTHING**2 * whole.mean())
        if (lost > allowed).any():
            return None
    return half


def _make_initializers(graph: onnx.GraphProto) -> None:
    """Turn large Constant nodes into initializers, which is the same."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        tensor = _value_of(node)
        if tensor is None or not _is_large(tensor, TensorProto.FLOAT):
            graph.node.append(node)
            continue
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = node.output[0]


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield the initializers, and the tensors of Constant nodes under the names of their outputs."""
    yield from graph.initializer
    for node in graph.node:
        if (tensor := _value_of(node)) is not None:
            named = TensorProto()
            named.CopyFrom(tensor)
            named.name = node.output[0]
            yield named


def _value_of(node: onnx.NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node, or None of other nodes."""
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        tensor: TensorProto = node.attribute[0].t
        return tensor
    return None


def _is_large(tensor: TensorProto, kind: int) -> bool:
    is_large = len(tensor.dims) >= _LEAST_AXES and math.prod(tensor.dims) >= _LEAST_VALUES
    return is_large and tensor.data_type == kind


def _cast(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.fp32", to=TensorProto.FLOAT)


def _gives_float(node: onnx.NodeProto) -> bool:
    """Return whether a node is a Cast to float32."""
    return node.op_type == "Cast" and any(
        a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute
    )


def _names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all tensors, also those in branches and loop bodies."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.output)
        for attribute in node.attribute:
            inner = (
                [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs
            )
            names.update(*map(_names, inner))
    return names


def _free_name(wanted: str, taken: set[str]) -> str:
    """Return a name that no tensor has, and take it."""
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name
