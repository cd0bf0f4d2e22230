"""Reads and cuts ONNX files without the onnx package.

Finds external data and loops, removes unwanted outputs with the nodes that only they need, and widens uint16 outputs. Works on the protobuf wire
format (https://protobuf.dev/programming-guides/encoding) with the field numbers of `onnx.proto3`. Only the
fields on the way are decoded, so a file of any size takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from dlcv.runtime.errors import BundleError

# message: {field number: nested message}; only the fields on the way to a tensor
_TO_TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTION = 7, 8, 25
_OPSET_DOMAIN, _FUNCTION_DOMAIN, _NODE_DOMAIN = 1, 10, 7
_OWN_DOMAINS = {"", "ai.onnx"}
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 3, 6, 11
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_TYPE_DTYPE = 1, 2, 1, 1
_UINT16, _INT32 = 4, 6  # dtypes, both of one byte
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LOOP = b"Loop"
_EXTERNAL_KEY = b"location"  # without this key external data names no file


class _Field(NamedTuple):
    """A protobuf field: its number, its value, and its raw bytes including the key."""

    number: int
    value: int | memoryview
    raw: memoryview


def has_external_data(model: bytes) -> bool:
    """Return whether a serialised ONNX model stores any tensor outside the file.

    An engine opens the file that such a tensor names; a hostile bundle could point it anywhere
    (CVE-2026-27489).

    Raises:
        BundleError: the bytes are not protobuf.
    """
    try:
        if _EXTERNAL_KEY not in model:  # which takes a thirtieth of the walk
            for _ in _fields(memoryview(model)):  # raises where it is no protobuf
                pass
            return False
        return any(
            number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and bool(value))
            for message, number, value in _walk(model)
            if message == "tensor"
        )
    except (IndexError, ValueError) as e:
        raise BundleError(f"the graph is not an ONNX file: {e}") from e


def has_loop(model: bytes) -> bool:
    """Return whether a serialised ONNX model has a Loop anywhere, which may never end. Raises as `has_external_data`."""
    if _LOOP not in model:
        return False
    try:
        return any(
            number == _NODE_TYPE and isinstance(value, memoryview) and bytes(value) == _LOOP
            for message, number, value in _walk(model)
            if message == "node"
        )
    except (IndexError, ValueError) as e:
        raise BundleError(f"the graph is not an ONNX file: {e}") from e


def foreign_domains(model: bytes) -> set[str]:
    """Return the domains of operators that are neither ONNX's own nor functions in the file. Raises as `has_external_data`."""
    data = memoryview(model)
    try:
        imported = {
            name
            for opset in _messages(data, _MODEL_OPSET)
            for name in _strings(opset, _OPSET_DOMAIN)
        } - _OWN_DOMAINS
        if not imported:  # as nearly always: no walk through all nodes
            return set()
        functions = _messages(data, _MODEL_FUNCTION)
        own = {name for function in functions for name in _strings(function, _FUNCTION_DOMAIN)}
        used = {
            str(value, "utf-8")
            for message, number, value in _walk(model)
            if message == "node" and number == _NODE_DOMAIN and isinstance(value, memoryview)
        }
    except (IndexError, ValueError) as e:
        raise BundleError(f"the graph is not an ONNX file: {e}") from e
    return used - own - _OWN_DOMAINS


def model_with_outputs(model: bytes, outputs: Collection[str]) -> bytes:
    """Return a serialised ONNX model that computes only some of its outputs.

    Engines run every node of a graph, needed or not, so nodes that no wanted output needs are removed.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    try:
        parts: list[bytes | memoryview] = []
        for number, value, raw in _fields(memoryview(model)):
            if number == _MODEL_GRAPH and isinstance(value, memoryview):
                graph = _graph_with_outputs(value, outputs)
                parts += [_key(_MODEL_GRAPH), _varint_bytes(sum(map(len, graph))), *graph]
            else:
                parts.append(raw)
    except (IndexError, ValueError) as e:
        raise BundleError(f"the graph is not an ONNX file: {e}") from e
    return b"".join(parts)


def model_with_int32_outputs(model: bytes) -> bytes:
    """Return a serialised ONNX model whose uint16 outputs are int32 instead, where a Cast makes them.

    The bytes are as many as before: one changes for the output, and one for its Cast.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    data = bytearray(model)
    try:
        for graph in _messages(memoryview(data), _MODEL_GRAPH):
            dtypes = {
                next(_strings(output, _VALUE_NAME), ""): dtype
                for output in _messages(graph, _GRAPH_OUTPUT)
                for kind in _messages(output, _VALUE_TYPE)
                for tensor in _messages(kind, _TYPE_TENSOR)
                for dtype in _uint16_fields(tensor, _TENSOR_TYPE_DTYPE)
            }
            for node in _messages(graph, _GRAPH_NODE):
                for name in dtypes.keys() & _strings(node, _NODE_OUTPUT):
                    for target in _targets_of_cast(node):
                        dtypes[name].raw[-1] = target.raw[-1] = _INT32
    except (IndexError, ValueError) as e:
        raise BundleError(f"the graph is not an ONNX file: {e}") from e
    return bytes(data)


def _targets_of_cast(node: memoryview) -> Iterator[_Field]:
    """Yield the field of a Cast's dtype, if that is uint16."""
    if "Cast" in _strings(node, _NODE_TYPE):
        for attribute in _messages(node, _NODE_ATTRIBUTE):
            if "to" in _strings(attribute, _ATTRIBUTE_NAME):
                yield from _uint16_fields(attribute, _ATTRIBUTE_INTEGER)


def _uint16_fields(message: memoryview, number: int) -> Iterator[_Field]:
    return (f for f in _fields(message) if f.number == number and f.value == _UINT16)


def _graph_with_outputs(graph: memoryview, outputs: Collection[str]) -> list[memoryview]:
    """Return a graph's fields that are kept, as they are in the file."""
    fields = list(_fields(graph))
    wanted = set(outputs)
    needed = set(wanted)
    kept_nodes = set()
    for position in range(len(fields) - 1, -1, -1):  # nodes are in topological order
        number, value, _ = fields[position]
        if number == _GRAPH_NODE and not needed.isdisjoint(_strings(value, _NODE_OUTPUT)):
            kept_nodes.add(position)
            needed.update(_inputs_of_node(value))

    def keep(position: int, field: _Field) -> bool:
        if field.number == _GRAPH_NODE:
            return position in kept_nodes
        if field.number == _GRAPH_OUTPUT:
            return not wanted.isdisjoint(_strings(field.value, _VALUE_NAME))
        if field.number == _GRAPH_INITIALIZER:
            return not needed.isdisjoint(_strings(field.value, _TENSOR_NAME))
        return True

    return [field.raw for p, field in enumerate(fields) if keep(p, field)]


def _inputs_of_node(node: int | memoryview) -> Iterator[str]:
    """Yield the tensors that a node reads, also in the graphs in its attributes (branches, loop bodies)."""
    yield from _strings(node, _NODE_INPUT)
    for attribute in _messages(node, _NODE_ATTRIBUTE):
        for number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            for graph in _messages(attribute, number):
                for output in _messages(graph, _GRAPH_OUTPUT):
                    yield from _strings(output, _VALUE_NAME)
                for inner in _messages(graph, _GRAPH_NODE):
                    yield from _inputs_of_node(inner)


def _strings(message: int | memoryview, number: int) -> Iterator[str]:
    for value in _messages(message, number):
        yield str(value, "utf-8")


def _walk(model: bytes) -> Iterator[tuple[str, int, int | memoryview]]:
    """Yield the fields of all messages on the way to tensors: the kind of message, the field's number and value."""
    stack = [("model", memoryview(model))]
    while stack:
        message, data = stack.pop()
        inner = _TO_TENSORS.get(message, {})
        for number, value, _ in _fields(data):
            yield message, number, value
            if isinstance(value, memoryview) and number in inner:
                stack.append((inner[number], value))


def _messages(message: int | memoryview, number: int) -> Iterator[memoryview]:
    if isinstance(message, memoryview):
        for field in _fields(message):
            if field.number == number and isinstance(field.value, memoryview):
                yield field.value


def _fields(data: memoryview) -> Iterator[_Field]:
    position, end = 0, len(data)
    while position < end:
        start = position
        key, position = _varint(data, position)
        value: int | memoryview = 0
        wire_type = key & 7
        if wire_type == _BYTES:
            length = data[position]
            if length < 0x80:  # most are so short: no call
                position += 1
            else:
                length, position = _varint(data, position)
            value, position = data[position : position + length], position + length
        elif wire_type == _VARINT:
            value, position = _varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position > end:
            raise ValueError("it is cut short")
        yield _Field(key >> 3, value, data[start:position])


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of over ten bytes")


def _varint_bytes(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _key(number: int) -> bytes:
    return _varint_bytes(number << 3 | _BYTES)
