"""Exports a wrapper as an ONNX graph with the names, dtypes and symbols of the graph contract."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn

from dlcv.export.strip_metadata import strip_notes
from dlcv.export.wrappers import Wrapper
from dlcv.export.writing import OPSET, ExportedGraph
from dlcv.runtime.bundle.schema import Dimension, DType, TensorSpec
from dlcv.runtime.errors import InputError

_EXAMPLE_BATCH = 2  # torch would make a size of 1 a constant
_DTYPES: dict[torch.dtype, DType] = {
    torch.uint8: "uint8",
    torch.uint16: "uint16",
    torch.float32: "float32",
}
_ONNX_TYPES = {
    "uint8": onnx.TensorProto.UINT8,
    "uint16": onnx.TensorProto.UINT16,
    "int32": onnx.TensorProto.INT32,
    "float32": onnx.TensorProto.FLOAT,
}


def graph_from_wrapper(
    wrapper: Wrapper, size: tuple[int, int], *, multiple: int | None
) -> ExportedGraph:
    """Export a wrapper with a dynamic batch.

    size: (height, width) of the input. multiple: height and width are dynamic, in multiples of this; None fixes
    them to `size`.
    """
    channels = wrapper.normalize.channels
    example = torch.randint(
        0, 256, (_EXAMPLE_BATCH, *size, channels), dtype=torch.uint8, generator=_seeded()
    )
    with torch.no_grad():
        answers = wrapper(example)
    symbols: tuple[Dimension, ...] = size if multiple is None else ("height", "width")
    inputs = (TensorSpec(name="image", dtype="uint8", shape=("batch", *symbols, channels)),)
    outputs = tuple(
        TensorSpec(name=name, dtype=_DTYPES[x.dtype], shape=_shape(x, size=size, symbols=symbols))
        for name, x in zip(wrapper.output_names, answers, strict=True)
    )
    dimensions = {0: torch.export.Dim("batch"), **_dynamic_sizes(multiple)}
    graph = graph_from_module(
        wrapper, (example,), inputs=inputs, outputs=outputs, dimensions=(dimensions,)
    )
    return wrapper.finished(graph)


def graph_from_module(
    module: nn.Module,
    examples: tuple[torch.Tensor, ...],
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    dimensions: tuple[dict[int, Any], ...],
) -> ExportedGraph:
    """Export a module with given input and output tensors.

    examples: an array for each input; dynamic axes need a size of 2 or more, because torch would make 1 a
    constant. dimensions: the dynamic axes of each input, as for `torch.export`.

    Raises:
        InputError: the network's code cannot be turned into a graph.
    """
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                dynamic_shapes=dimensions,
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as e:
        raise InputError(_why_not_exported(e)) from e
    _free_names(program.model.graph, {spec.name for spec in (*inputs, *outputs)})
    model = _cleaned(program.model_proto, inputs=inputs, outputs=outputs)
    return ExportedGraph(
        model=model.SerializeToString(deterministic=True), inputs=inputs, outputs=outputs
    )


def _free_names(graph: Any, names: set[str]) -> None:
    """Rename inner tensors that torch named as an input or output is, such as "embedding", what an `nn.Embedding` gives."""
    inner = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    for value in [*inner, *graph.initializers.values()]:
        if value.name in names:
            value.name = f"inner_{value.name}"


def _why_not_exported(error: Exception) -> str:
    """Return torch's reason in a sentence, with the line of the network's code where it names one."""
    text = str(error.__cause__ or error).strip()
    reason = " ".join((text.splitlines() or [type(error).__name__])[0].split())
    places = re.findall(r'File "([^"]+)", line (\d+)', text)
    where = f" at {places[-1][0]}, line {places[-1][1]}" if places else ""
    return (
        f"torch.export cannot turn the network into a graph{where} ({reason}); code that depends on the values or sizes "
        "of tensors has to be written without Python's if and loops"
    )


def _dynamic_sizes(multiple: int | None) -> dict[int, Any]:
    if multiple is None:
        return {}
    units = {1: torch.export.Dim("height_units"), 2: torch.export.Dim("width_units")}
    return {axis: multiple * unit if multiple > 1 else unit for axis, unit in units.items()}


def _shape(
    answer: torch.Tensor, *, size: tuple[int, int], symbols: tuple[Dimension, ...]
) -> tuple[Dimension, ...]:
    """Return an output's shape, with the image's symbols for maps as large as the image."""
    inner = tuple(answer.shape[1:])
    return ("batch", *(symbols if inner == size else inner))


def _cleaned(
    model: onnx.ModelProto, *, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> onnx.ModelProto:
    """Declare the tensors as specified, and drop the exporter's notes about this machine."""
    graph = model.graph
    for values, specs in ((graph.input, inputs), (graph.output, outputs)):
        del values[:]
        values.extend(
            onnx.helper.make_tensor_value_info(spec.name, _ONNX_TYPES[spec.dtype], list(spec.shape))
            for spec in specs
        )
    del graph.value_info[:]  # engines infer these; the exporter's contain its own symbols
    strip_notes(model)
    graph.name = "dlcv"
    onnx.checker.check_model(model, full_check=True)
    return model


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages to its own developers. Errors are still raised."""
    names = ("torch.onnx", "torch.fx", "torch.export", "onnxscript")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*shares the same shape constraints")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
