"""Reads an ONNX file, and rejects what cannot become a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import inliner

from dlcv.export.onnx_import.qdq import QLINEAR
from dlcv.runtime.bundle.onnx_protobuf import has_external_data
from dlcv.runtime.errors import BundleError, InputError

_DEFAULT_DOMAINS = ("", "ai.onnx")
_MAX_BYTES = 2**31 - 1  # of a protobuf message


def model_from_file(path: Path) -> onnx.ModelProto:
    """Return the model of a file, its functions inlined.

    Raises:
        InputError: no ONNX file, a damaged one, one that keeps weights elsewhere, or one with
            operators that are not ONNX's own.
    """
    data = _bytes(path)
    try:
        external = has_external_data(data)
        model = onnx.load_from_string(data)
    except Exception as e:  # protobuf's own error class is not public
        raise InputError(f"{path} is not an ONNX file: {_first_line(e)}") from e
    if external:
        raise InputError(
            f"{path} keeps weights in other files (external data); put them into one file: "
            "onnx.save(onnx.load(PATH), NEW_PATH)"
        )
    if not model.graph.node or not model.opset_import:
        raise InputError(f"{path} is not an ONNX file: it holds no graph")
    if model.functions:
        model = inliner.inline_local_functions(model)
    _require_own_operators(model, path)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as e:
        raise InputError(f"{path} is not a valid ONNX graph: {_first_line(e)}") from e
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset version of a model's default domain."""
    return max((o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAINS), default=1)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, including those of branches and loop bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            graphs: Iterable[onnx.GraphProto] = (attribute.g, *attribute.graphs)
            for inner in graphs:
                yield from nodes_of(inner)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"no ONNX file at {path}")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} is larger than 2 GB, which no single ONNX file can be")
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e


def _require_own_operators(model: onnx.ModelProto, path: Path) -> None:
    for node in nodes_of(model.graph):
        if node.domain not in _DEFAULT_DOMAINS and node.op_type not in QLINEAR:
            raise InputError(
                f"{path} has the operator {node.op_type} of {node.domain}, which other engines do not "
                "have; export it with ONNX's own operators (an optimised file: take the one before)"
            )


def _first_line(error: Exception) -> str:
    if isinstance(error, BundleError):
        return str(error).rpartition(": ")[2]
    return (str(error).strip() or type(error).__name__).splitlines()[0]
