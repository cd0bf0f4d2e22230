"""Prepares a file's graph for a bundle: current opset, dynamic batch, selected outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from dlcv.export.onnx_import.dynamic_batch import free_batch
from dlcv.export.onnx_import.image_input import DTYPES, Entry
from dlcv.export.onnx_import.intermediates import Tap, with_taps
from dlcv.export.onnx_import.qdq import without_qlinear
from dlcv.export.onnx_import.read import nodes_of, opset_of
from dlcv.export.onnx_import.session import Session
from dlcv.export.strip_metadata import strip_notes
from dlcv.export.writing import OPSET
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.errors import EngineError, InputError

_IR_VERSION = 10  # since 4, constants need not be inputs; 10 has every type of opset 21
_PROBE_BATCH = 2
_HALF = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}


def core_from_model(
    model: onnx.ModelProto, entry: Entry, *, taps: Sequence[Tap], opset: int | None
) -> onnx.ModelProto:
    """Return the graph with a dynamic batch, at `opset`, with the tapped tensors as outputs.

    Raises:
        InputError: it cannot be brought to the opset.
    """
    core = onnx.ModelProto()
    core.CopyFrom(model)
    del core.graph.value_info[:]
    _declare_input(core, entry, batch=1 if entry.fixed_batch else "batch")
    core = _at_opset(without_qlinear(core), opset)
    _keep_only_image(core, entry)
    if entry.fixed_batch:
        free_batch(core, entry)
        _declare_input(core, entry, batch="batch")
    core = with_taps(core, taps)
    del core.graph.value_info[:]
    strip_notes(core)
    return core


def shapes_of(core: onnx.ModelProto, entry: Entry, taps: Sequence[Tap]) -> list[tuple[int, ...]]:
    """Run a core on two images and return the shapes of the tapped tensors, without the batch.

    Raises:
        InputError: it takes no batch of two, or gives tensors that are no floats.
    """
    height, width = entry.size
    shape = entry.shape(_PROBE_BATCH, height=height, width=width)
    zeros: np.ndarray[Any, Any] = np.zeros([int(n) for n in shape], DTYPES[entry.kind])
    try:
        answers = Session(core).run(entry.name, zeros, outputs=[tap.name for tap in taps])
    except EngineError as e:
        raise InputError(
            f"the graph does not work on several images at once ({e}); "
            "export it again with a dynamic batch"
        ) from e
    for tap, answer in zip(taps, answers, strict=True):
        _require_batch_of_floats(tap, answer)
    return [answer.shape[1:] for answer in answers]


def precision_of(core: onnx.ModelProto) -> Precision:
    """Return the precision of a graph's convolutions and matrix products."""
    nodes = list(nodes_of(core.graph))
    if any(node.op_type == "QuantizeLinear" for node in nodes):
        return "int8"
    inferred = onnx.shape_inference.infer_shapes(core).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    for node in nodes:
        kind = kinds.get(node.output[0]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if kind in _HALF:
            return "fp16" if kind == onnx.TensorProto.FLOAT16 else "bf16"
    return "fp32"


def _require_batch_of_floats(tap: Tap, answer: np.ndarray[Any, Any]) -> None:
    if answer.dtype not in (np.float32, np.float16, np.float64):
        raise InputError(
            f"tensor {tap.tensor!r} is {answer.dtype}, not floats: scores are needed, not decisions; "
            "name the tensor before it by --output or --embedding"
        )
    if not answer.ndim or answer.shape[0] != _PROBE_BATCH:
        raise InputError(
            f"tensor {tap.tensor!r} has shape {answer.shape} for {_PROBE_BATCH} images, without a "
            "batch axis; export the graph again with a dynamic batch"
        )


def _declare_input(model: onnx.ModelProto, entry: Entry, *, batch: int | str) -> None:
    height, width = entry.sides
    shape = entry.shape(batch, height=height, width=width)
    value = onnx.helper.make_tensor_value_info(entry.name, entry.kind, shape)
    next(v for v in model.graph.input if v.name == entry.name).CopyFrom(value)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def _at_opset(model: onnx.ModelProto, opset: int | None) -> onnx.ModelProto:
    own = opset_of(model)
    target = opset or max(own, OPSET)
    if target < own:
        raise InputError(f"the file has opset {own}; give --opset {own} or more, or leave it out")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", own))
    if target > own:
        try:
            model = version_converter.convert_version(model, target)
        except Exception as e:  # the converter raises RuntimeError and others
            reason = " ".join(str(e).split())
            raise InputError(
                f"the graph cannot be brought from opset {own} to {target} ({reason}); "
                f"export it again with opset {OPSET} or newer"
            ) from e
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return model


def _keep_only_image(model: onnx.ModelProto, entry: Entry) -> None:
    """Remove constants from the inputs, where old files list them. Engines would not fold them."""
    image = next(v for v in model.graph.input if v.name == entry.name)
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(image)
    del model.graph.input[:]
    model.graph.input.append(kept)
