"""Find external data in an ONNX file without the onnx package: a walk over its protobuf fields.

A tensor with `data_location = EXTERNAL` names a file that the engine would open; a hostile bundle
could point it anywhere (CVE-2026-27489). Field numbers are those of `onnx.proto3`.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlcv.runtime.errors import BundleError

# message: {field number: message inside}; only the fields on a way to a tensor
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def has_external_data(model: bytes) -> bool:
    """Return whether any tensor of a serialised ONNX model lives outside the file.

    Raises:
        BundleError: the bytes are not protobuf.
    """
    stack = [("model", memoryview(model))]
    try:
        while stack:
            message, data = stack.pop()
            for field, value in _fields(data):
                if message == "tensor":
                    if field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_DATA_LOCATION and value):
                        return True
                elif isinstance(value, memoryview) and field in _FIELDS[message]:
                    stack.append((_FIELDS[message][field], value))
    except (IndexError, ValueError) as e:
        raise BundleError(f"the graph is not an ONNX file: {e}") from e
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield field, value
        elif wire_type == _BYTES:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError("it is cut short")
            yield field, data[position : position + length]
            position += length
        elif wire_type in (_FIXED32, _FIXED64):
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of over ten bytes")
