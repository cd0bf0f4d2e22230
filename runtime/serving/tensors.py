"""Tensors of the Open Inference Protocol: datatypes, bytes on the wire, values in JSON.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and, for binary tensors and the
classification extension, https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from dlcv.runtime.bundle.schema import DType, TensorSpec
from dlcv.runtime.serving.errors import RequestError

Array: TypeAlias = "np.ndarray[Any, Any]"

DATATYPES: dict[DType, str] = {
    "uint8": "UINT8",
    "uint16": "UINT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
}
_LENGTH = struct.Struct("<I")  # of each element of BYTES
_MAX_AXES = 8


def datatype_of(array: Array) -> str:
    """Return the datatype of an array; objects are BYTES."""
    return "BYTES" if array.dtype == object else DATATYPES[array.dtype.name]


def wire_shape(spec: TensorSpec) -> list[int]:
    """Return a spec's shape, symbols as -1."""
    return [-1 if isinstance(size, str) else size for size in spec.shape]


def bytes_from_array(array: Array) -> bytes:
    """Return an array as it is sent: little-endian, in rows; BYTES with a length before each element."""
    if array.dtype != object:
        return np.ascontiguousarray(array).tobytes()
    return b"".join(_LENGTH.pack(len(item)) + item for item in map(_encoded, array.ravel()))


def json_from_array(array: Array) -> list[Any]:
    """Return the values in rows, as one flat list; BYTES as text."""
    if array.dtype != object:
        return array.ravel().tolist()
    return [_encoded(item).decode("utf-8", "replace") for item in array.ravel()]


def array_from_bytes(data: bytes | memoryview, *, datatype: str, shape: Sequence[int]) -> Array:
    """Return the image tensor that was sent: uint8 pixels, or an object array of files (`BYTES`).

    Raises:
        RequestError: another datatype, or bytes that do not fit the shape.
    """
    count = count_of(shape)
    if datatype == "BYTES":
        return _objects(_elements(data, count), shape)
    _require_pixels(datatype)
    if len(data) != count:
        raise RequestError(
            f"'image' of shape {list(shape)} needs {count:,} bytes, received {len(data):,}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def array_from_json(values: Any, *, datatype: str, shape: Sequence[int]) -> Array:
    """Return the image tensor of a JSON `data`: numbers 0 to 255, flat or nested; or files, each as base64 text.

    Raises:
        RequestError: another datatype, or values that do not fit it or the shape.
    """
    count = count_of(shape)
    if datatype == "BYTES":
        texts = values if isinstance(values, list) else [values]
        if len(texts) != count:
            raise RequestError(
                f"'image' of shape {list(shape)} needs {count:,} files, received {len(texts):,}"
            )
        return _objects(map(_file_from_text, texts), shape)
    _require_pixels(datatype)
    try:
        array = np.array(values)
    except (ValueError, TypeError, OverflowError) as e:
        raise RequestError("the values of 'image' are not numbers in equal rows") from e
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() <= 255):
        raise RequestError("the values of 'image' (UINT8) must be whole numbers from 0 to 255")
    if array.size != count:
        raise RequestError(
            f"'image' of shape {list(shape)} needs {count:,} values, received {array.size:,}"
        )
    return array.astype(np.uint8).reshape(shape)


def count_of(shape: Sequence[int]) -> int:
    """Return the number of values of a shape.

    Raises:
        RequestError: it is no shape.
    """
    if not 0 < len(shape) <= _MAX_AXES or not all(0 <= size < 2**31 for size in shape):
        raise RequestError(
            f"the shape {list(shape)[:_MAX_AXES]} of 'image' must have 1 to {_MAX_AXES} sizes of 0 to 2^31"
        )
    return math.prod(shape)


def _require_pixels(datatype: str) -> None:
    if datatype != "UINT8":
        raise RequestError(
            f"'image' is UINT8 (pixels) or BYTES (files), not {datatype[:20]!r}; normalisation is inside the graph"
        )


def _elements(data: bytes | memoryview, count: int) -> Iterable[bytes]:
    at = 0
    for _ in range(count):
        end = at + _LENGTH.size
        if end <= len(data):
            end += _LENGTH.unpack_from(data, at)[0]
        if not at + _LENGTH.size <= end <= len(data):
            raise RequestError(
                f"'image' (BYTES) ends within an element: {count:,} were announced, {len(data):,} bytes sent"
            )
        yield bytes(data[at + _LENGTH.size : end])
        at = end
    if at != len(data):
        raise RequestError(f"'image' (BYTES) has {len(data) - at:,} bytes more than its elements")


def _objects(items: Iterable[bytes], shape: Sequence[int]) -> Array:
    found = list(items)
    array = np.empty(len(found), object)
    array[:] = found
    return array.reshape(shape)


def _file_from_text(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as e:
        raise RequestError("a file in JSON ('image', BYTES) must be base64 text") from e


def _encoded(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
