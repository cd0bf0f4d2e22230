"""Adds pre- and postprocessing nodes around a core graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from dlcv.export.onnx_import.heads import Head
from dlcv.export.onnx_import.image_input import LUMINANCE, Entry
from dlcv.export.onnx_import.intermediates import Tap
from dlcv.export.onnx_import.nodes import Nodes
from dlcv.export.onnx_import.normalise import precision_of
from dlcv.export.onnx_import.read import opset_of
from dlcv.export.writing import ExportedGraph
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.errors import InputError

_INSIDE = "model/"  # prefix of every name of the file's graph, so that none clashes with ours
_KINDS = {
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "float32": TensorProto.FLOAT,
}


def wrapped(
    core: onnx.ModelProto, *, entry: Entry, taps: Sequence[Tap], head: Head
) -> ExportedGraph:
    """Return a bundle's graph, from `image` to the task's outputs.

    taps: the core's outputs, which the head takes.
    """
    inside = onnx.compose.add_prefix(core, _INSIDE)
    before, after = Nodes("before/"), Nodes("after/")
    _add_entry(before, entry, output=_INSIDE + entry.name)
    head.add_to(after, [_INSIDE + tap.name for tap in taps], entry)
    inputs, outputs = _inputs(entry), head.outputs(entry)
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


def _add_entry(nodes: Nodes, entry: Entry, *, output: str) -> None:
    """Add the nodes for `Entry.from_pixels`. The cast comes first: TensorRT takes nothing else on uint8."""
    pixels = nodes.floats("image")
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


def _inputs(entry: Entry) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="image", dtype="uint8", shape=("batch", *entry.sides, 3)),)


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
