"""The Open Inference Protocol, version 2, over HTTP, with Triton's extensions for binary tensors and classification.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias, final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import dlcv
from dlcv.runtime.serving.body import body_of
from dlcv.runtime.serving.edge import json_response, record_of
from dlcv.runtime.serving.errors import RequestError
from dlcv.runtime.serving.inference import (
    InferRequest,
    NamedTensor,
    WantedOutput,
    configuration,
    metadata,
    require_one_image,
    submit,
)
from dlcv.runtime.serving.served import VERSION, ServedModel
from dlcv.runtime.serving.state import Serving
from dlcv.runtime.serving.tensors import (
    Array,
    array_from_bytes,
    array_from_json,
    bytes_from_array,
    json_from_array,
)
from dlcv.runtime.serving.waiting import while_connected

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository")
_HEADER_LENGTH = "inference-header-content-length"
_COMPRESSED_BYTES = 1024  # a smaller answer is sent as it is


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    classification: int = 0


class _RequestParameters(msgspec.Struct, frozen=True):
    binary_data_output: bool = False


class _Input(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: _InputParameters = _InputParameters()


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _Head(msgspec.Struct, frozen=True):
    """The JSON of a request; keys that it does not name are passed over, as the protocol says."""

    inputs: list[_Input]
    outputs: list[_Output] | None = None
    id: str = ""
    parameters: _RequestParameters = _RequestParameters()


@final
class RestProtocol:
    """The routes below /v2."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def routes(self) -> list[Route]:
        """Return all routes."""
        get: Sequence[tuple[str, Endpoint]] = (
            ("/v2", self._server),
            ("/v2/health/live", self._live),
            ("/v2/health/ready", self._ready),
        )
        of_model: Sequence[tuple[str, str, Endpoint]] = (
            ("", "GET", self._model),
            ("/ready", "GET", self._model_ready),
            ("/config", "GET", self._config),
            ("/infer", "POST", self._infer),
        )
        versions = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get),
            *(
                Route(base + path, endpoint, methods=[method])
                for base in versions
                for path, method, endpoint in of_model
            ),
            Route("/v2/repository/index", self._index, methods=["POST"]),
        ]

    async def _server(self, request: Request) -> Response:
        return json_response(
            {"name": "dlcv", "version": dlcv.__version__, "extensions": list(EXTENSIONS)}
        )

    async def _live(self, request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, request: Request) -> Response:
        self._serving.require_ready()
        return json_response({"ready": True})

    async def _model_ready(self, request: Request) -> Response:
        return json_response({"name": self._named(request).name, "ready": True})

    async def _model(self, request: Request) -> Response:
        return json_response(metadata(self._named(request)))

    async def _config(self, request: Request) -> Response:
        return json_response(configuration(self._named(request)))

    async def _index(self, request: Request) -> Response:
        return json_response(
            [
                {"name": m.name, "version": VERSION, "state": "READY", "reason": ""}
                for m in self._serving.models
            ]
        )

    async def _infer(self, request: Request) -> Response:
        model, record = self._named(request), record_of(request)
        limits = self._serving.options.limits
        model.require_room()
        with model.in_use():
            async with body_of(request, self._serving.budget, limits) as body:
                asked = request_from_body(body, request.headers.get(_HEADER_LENGTH))
                async with while_connected(request.receive):
                    tensors = await submit(model, asked)(limits.timeout_s)
                record.images = len(asked.images)
        answer, head = body_from_tensors(tensors, model=model, request_id=asked.id)
        return _compressed(answer, head, request.headers.get("accept-encoding", ""))

    def _named(self, request: Request) -> ServedModel:
        parameters = request.path_params
        model = self._serving.models.get(parameters["name"], version=parameters.get("version", ""))
        record_of(request).model = model.name
        return model


def request_from_body(body: bytes, head_length: str | None) -> InferRequest:
    """Return the request of a body: JSON, and behind its `head_length` bytes the binary tensors.

    Raises:
        RequestError: it is malformed.
    """
    length = len(body) if head_length is None else _length(head_length, len(body))
    try:
        head = msgspec.json.decode(body[:length], type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        reason = " ".join(str(e).split())[:160]
        raise RequestError(f"the request is not JSON of the protocol: {reason}") from e
    rest = memoryview(body)[length:]
    require_one_image([tensor.name for tensor in head.inputs])
    images, rest = _array(head.inputs[0], rest)
    if rest:
        raise RequestError(f"the request has {len(rest):,} bytes more than its tensors announce")
    binary = head.parameters.binary_data_output
    return InferRequest(
        images=images,
        outputs=tuple(_wanted(output, binary) for output in head.outputs or ()),
        is_binary=binary,
        id=head.id,
    )


def body_from_tensors(
    tensors: Sequence[NamedTensor], *, model: ServedModel, request_id: str
) -> tuple[bytes, int | None]:
    """Return the answer's body, and the length of its JSON where binary tensors follow."""
    outputs, binary = [], []
    for tensor in tensors:
        described: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        if tensor.is_binary:
            binary.append(bytes_from_array(tensor.array))
            described["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            described["data"] = json_from_array(tensor.array)
        outputs.append(described)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if request_id:
        answer["id"] = request_id
    head = msgspec.json.encode(answer | {"outputs": outputs})
    return b"".join([head, *binary]), len(head) if binary else None


def _length(text: str, size: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > size:
        raise RequestError(
            f"Inference-Header-Content-Length {text[:20]!r} is not a number of up to {size}, the body's bytes"
        )
    return int(text)


def _array(tensor: _Input, rest: memoryview) -> tuple[Array, memoryview]:
    size = tensor.parameters.binary_data_size
    if size is None:
        if tensor.data is None:
            raise RequestError(f"{tensor.name!r} has neither 'data' nor 'binary_data_size'")
        array = array_from_json(tensor.data, datatype=tensor.datatype, shape=tensor.shape)
        return array, rest
    if not 0 <= size <= len(rest):
        raise RequestError(
            f"{tensor.name!r} announces {size:,} binary bytes, the body has {len(rest):,}"
        )
    array = array_from_bytes(rest[:size], datatype=tensor.datatype, shape=tensor.shape)
    return array, rest[size:]


def _wanted(output: _Output, is_binary: bool) -> WantedOutput:
    asked = output.parameters.binary_data
    return WantedOutput(
        name=output.name,
        is_binary=is_binary if asked is None else asked,
        classes=output.parameters.classification,
    )


def _compressed(body: bytes, head: int | None, accepted: str) -> Response:
    headers = {} if head is None else {_HEADER_LENGTH: str(head)}
    kind = "application/json" if head is None else "application/octet-stream"
    encodings = [part.partition(";")[0].strip().lower() for part in accepted.split(",")]
    encoding = next((e for e in ("gzip", "deflate") if e in encodings), None)
    if encoding is not None and len(body) >= _COMPRESSED_BYTES:
        deflater = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)
        body = deflater.compress(body) + deflater.flush()
        headers["content-encoding"] = encoding
    return Response(body, headers=headers, media_type=kind)
