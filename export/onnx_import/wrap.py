"""Adds pre- and postprocessing nodes around a core graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.onnx_import.image_input import LUMINANCE, Entry
from dlcv.export.onnx_import.intermediates import Tap
from dlcv.export.onnx_import.normalise import precision_of
from dlcv.export.onnx_import.postprocessing import Head
from dlcv.export.onnx_import.read import opset_of
from dlcv.export.writing import ExportedGraph
from dlcv.runtime.bundle.schema import Dimension, TensorSpec
from dlcv.runtime.errors import InputError

Array: TypeAlias = "np.ndarray[Any, Any]"
_INSIDE = "model/"  # prefix of every name of the file's graph, so that none clashes with ours
_KINDS = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def wrapped(
    core: onnx.ModelProto, *, entry: Entry, taps: Sequence[Tap], head: Head
) -> ExportedGraph:
    """Return a bundle's graph, from `image` to the task's outputs.

    taps: scores and, for a classifier, embedding: the core's outputs.
    """
    inside = onnx.compose.add_prefix(core, _INSIDE)
    before, after = _Nodes("before/"), _Nodes("after/")
    _add_entry(before, entry, output=_INSIDE + entry.name)
    _add_head(after, head, entry, tensors=[_INSIDE + tap.name for tap in taps])
    inputs, outputs = _inputs(entry), _outputs(head, entry)
    graph = helper.make_graph(
        [*before.nodes, *inside.graph.node, *after.nodes],
        "dlcv",
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        [*before.constants, *inside.graph.initializer, *after.constants],
        sparse_initializer=inside.graph.sparse_initializer,
    )
    model = helper.make_model(
        graph, opset_imports=inside.opset_import, ir_version=inside.ir_version
    )
    return ExportedGraph(
        model=_checked(model),
        inputs=inputs,
        outputs=outputs,
        opset=opset_of(core),
        precision=precision_of(core),
    )


class _Nodes:
    """Collects nodes and constants in order, with unique names."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name = f"{self._prefix}{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [output or name], name=name, **attributes)
        self.nodes.append(node)
        return output or name

    def constant(self, array: Array) -> str:
        """Add a constant and return its name."""
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _add_entry(nodes: _Nodes, entry: Entry, *, output: str) -> None:
    """Add the nodes for `Entry.from_pixels`. The cast comes first: TensorRT takes nothing else on uint8."""
    pixels = nodes.add("Cast", "image", to=TensorProto.FLOAT)
    if entry.channels == "bgr":
        pixels = nodes.add("Gather", pixels, nodes.constant(np.array([2, 1, 0])), axis=3)
    elif entry.channels == "grey":
        weights = np.array(LUMINANCE, np.float32).reshape(3, 1)
        pixels = nodes.add("MatMul", pixels, nodes.constant(weights))
    scaling = entry.scaling
    mean, std = np.array(scaling.mean), np.array(scaling.std)
    if (scaling.scale / std != 1).any():
        factor = nodes.constant((scaling.scale / std).astype(np.float32))
        pixels = nodes.add("Mul", pixels, factor)
    if mean.any():
        pixels = nodes.add("Sub", pixels, nodes.constant((mean / std).astype(np.float32)))
    if entry.layout == "nchw":
        pixels = nodes.add("Transpose", pixels, perm=[0, 3, 1, 2])
    nodes.add("Cast", pixels, output=output, to=entry.kind)


def _add_head(nodes: _Nodes, head: Head, entry: Entry, *, tensors: Sequence[str]) -> None:
    """Add the nodes for `Head.answers`."""
    floats = [nodes.add("Cast", name, to=TensorProto.FLOAT) for name in tensors]
    if head.task == "embed":
        _add_vectors(nodes, floats[0], head.shape)
    elif head.layout is None:
        flat = nodes.add("Flatten", floats[0], axis=1)
        _add_probabilities(nodes, flat, head, output="probabilities")
        if head.embedding is not None:
            _add_vectors(nodes, floats[1], head.embedding)
    else:
        maps = floats[0]
        if head.layout == "nhwc":
            maps = nodes.add("Transpose", maps, perm=[0, 3, 1, 2])
        maps = _add_resize(nodes, maps, head, entry)
        probabilities = _add_probabilities(nodes, maps, head)
        classes = nodes.add("ArgMax", probabilities, axis=1, keepdims=0)
        nodes.add("Cast", classes, output="mask", to=TensorProto.UINT8)
        axis = nodes.constant(np.array([1]))
        nodes.add("ReduceMax", probabilities, axis, output="confidence", keepdims=0)


def _add_vectors(nodes: _Nodes, tensor: str, shape: tuple[int, ...]) -> None:
    if len(shape) == 3:
        axes = nodes.constant(np.array([2, 3]))
        nodes.add("ReduceMean", tensor, axes, output="embedding", keepdims=0)
    else:
        nodes.add("Identity", tensor, output="embedding")


def _add_resize(nodes: _Nodes, maps: str, head: Head, entry: Entry) -> str:
    sides = head.shape[1:] if head.layout == "nchw" else head.shape[:2]
    if sides == entry.size and not entry.dynamic:
        return maps
    sizes = nodes.constant(np.array(entry.size))
    if entry.dynamic:
        sizes = nodes.add("Shape", "image", start=1, end=3)
    unchanged = nodes.add("Shape", maps, start=0, end=2)  # TensorRT does not parse `axes` of Resize
    sizes = nodes.add("Concat", unchanged, sizes, axis=0)
    return nodes.add("Resize", maps, "", "", sizes, mode="linear")


def _add_probabilities(nodes: _Nodes, scores: str, head: Head, *, output: str = "") -> str:
    if head.channels == 1:
        positive = nodes.add("Sigmoid", scores) if head.logits else scores
        negative = nodes.add("Sub", nodes.constant(np.ones(1, np.float32)), positive)
        return nodes.add("Concat", negative, positive, output=output, axis=1)
    return (
        nodes.add("Softmax", scores, output=output, axis=1)
        if head.logits
        else _named(nodes, scores, output)
    )


def _named(nodes: _Nodes, tensor: str, name: str) -> str:
    return nodes.add("Identity", tensor, output=name) if name else tensor


def _inputs(entry: Entry) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="image", dtype="uint8", shape=("batch", *_sides(entry), 3)),)


def _outputs(head: Head, entry: Entry) -> tuple[TensorSpec, ...]:
    if head.layout is not None:
        shape = ("batch", *_sides(entry))
        return (
            TensorSpec(name="mask", dtype="uint8", shape=shape),
            TensorSpec(name="confidence", dtype="float32", shape=shape),
        )
    widths = {"probabilities": head.classes}
    if vector := head.shape if head.task == "embed" else head.embedding:
        widths["embedding"] = vector[0]
    return tuple(
        TensorSpec(name=name, dtype="float32", shape=("batch", width))
        for name, width in widths.items()
        if width
    )


def _sides(entry: Entry) -> tuple[Dimension, Dimension]:
    return ("height", "width") if entry.dynamic else entry.size


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _KINDS[spec.dtype], list(spec.shape))


def _checked(model: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        reason = str(e).strip().splitlines()[0]
        raise InputError(f"the graph does not fit together once it is wrapped: {reason}") from e
    data: bytes = model.SerializeToString(deterministic=True)
    return data
