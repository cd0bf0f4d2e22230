"""The Open Inference Protocol, version 2, over gRPC. The stubs are tritonclient's, of the public protocol file."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, final

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as untyped_service_pb2
from tritonclient.grpc import service_pb2_grpc

import dlcv
from dlcv.runtime.errors import DlcvError, InputError
from dlcv.runtime.serving.edge import RequestRecord, log_record
from dlcv.runtime.serving.errors import RequestError, reason_of, status_of
from dlcv.runtime.serving.inference import (
    InferRequest,
    NamedTensor,
    WantedOutput,
    configuration,
    metadata,
    require_one_image,
    submit,
)
from dlcv.runtime.serving.rest import EXTENSIONS
from dlcv.runtime.serving.served import VERSION, ServedModel
from dlcv.runtime.serving.state import Serving
from dlcv.runtime.serving.tensors import Array, array_from_bytes, array_from_json, bytes_from_array
from dlcv.runtime.serving.tracing import span

T = TypeVar("T")
service_pb2: Any = untyped_service_pb2  # protobuf makes its classes when it is imported
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_HEAD_BYTES = 2**20  # of a message, beside its tensors
_OPEN = ("ServerLive", "ServerReady")


def grpc_server(serving: Serving) -> grpc.aio.Server:
    """Return a server that listens on the port of the options, not started.

    Raises:
        InputError: the port is in use, or the TLS files cannot be used.
    """
    options, limits = serving.options, serving.options.limits
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes + _HEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 64 * 2**10),
            ("grpc.max_connection_idle_ms", 600_000),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=limits.connections,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(serving), server)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.grpc_port}"
    try:
        if options.tls is None:
            server.add_insecure_port(address)
        else:
            pair = (options.tls.key.read_bytes(), options.tls.certificate.read_bytes())
            server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except (RuntimeError, OSError) as e:
        raise InputError(
            f"cannot listen on {address} for gRPC; choose another port with --grpc-port, or 0 for none"
        ) from e
    return server


@final
class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # it has no types
    """The methods of the protocol. What Triton has besides (shared memory, loading) is answered UNIMPLEMENTED."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's names
        return await self._answer(
            context, "ServerLive", lambda _: service_pb2.ServerLiveResponse(live=True)
        )

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        ready = service_pb2.ServerReadyResponse(ready=self._serving.is_ready)
        return await self._answer(context, "ServerReady", lambda _: ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ServerMetadataResponse(
            name="dlcv", version=dlcv.__version__, extensions=EXTENSIONS
        )
        return await self._answer(context, "ServerMetadata", lambda _: answer)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        ready = request.name in self._serving.models and request.version in ("", VERSION)
        answer = service_pb2.ModelReadyResponse(ready=ready)
        return await self._answer(context, "ModelReady", lambda _: answer)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        def answer(record: RequestRecord) -> Any:
            described = metadata(self._model(request.name, request.version, record))
            return json_format.ParseDict(described, service_pb2.ModelMetadataResponse())

        return await self._answer(context, "ModelMetadata", answer)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        def answer(record: RequestRecord) -> Any:
            described = configuration(self._model(request.name, request.version, record))
            return json_format.ParseDict({"config": described}, service_pb2.ModelConfigResponse())

        return await self._answer(context, "ModelConfig", answer)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        for model in self._serving.models:
            answer.models.add(name=model.name, version=VERSION, state="READY")
        return await self._answer(context, "RepositoryIndex", lambda _: answer)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._recorded(context, "ModelInfer") as record:
            try:
                return await self._infer(request, context, record)
            except DlcvError as e:
                await _refuse(context, record, e)

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in request_iterator:
            with self._recorded(context, "ModelStreamInfer") as record:
                try:
                    answer = await self._infer(request, context, record)
                    yield service_pb2.ModelStreamInferResponse(infer_response=answer)
                except DlcvError as e:
                    record.refused, record.status = reason_of(e), status_of(e)
                    failed = service_pb2.ModelInferResponse(id=request.id, model_name=record.model)
                    yield service_pb2.ModelStreamInferResponse(
                        error_message=str(e), infer_response=failed
                    )

    async def _infer(self, request: Any, context: Any, record: RequestRecord) -> Any:
        self._require_key(context)
        model = self._model(request.model_name, request.model_version, record)
        asked = request_from_message(request)
        limit = self._serving.options.limits.timeout_s
        remaining = context.time_remaining()
        seconds = limit if remaining is None else max(0.0, min(limit, remaining))
        with model.in_use(), self._serving.budget.holding() as held:
            held.take(request.ByteSize())
            tensors = await submit(model, asked)(seconds)
        record.images = len(asked.images)
        return message_from_tensors(tensors, model=model, request_id=request.id)

    async def _answer(
        self, context: Any, method: str, answer: Callable[[RequestRecord], T]
    ) -> T | None:
        with self._recorded(context, method) as record:
            try:
                if method not in _OPEN:
                    self._require_key(context)
                return answer(record)
            except DlcvError as e:
                await _refuse(context, record, e)
        return None

    def _model(self, name: str, version: str, record: RequestRecord) -> ServedModel:
        model = self._serving.models.get(name, version=version)
        record.model = model.name
        return model

    def _require_key(self, context: Any) -> None:
        given = _metadata(context)
        self._serving.require_key(given.get("authorization", ""), given.get("x-api-key", ""))

    @contextmanager
    def _recorded(self, context: Any, method: str) -> Iterator[RequestRecord]:
        """Count a request, log it, and record its span."""
        given = _metadata(context)
        record = RequestRecord(given.get("x-request-id", "")[:128] or f"{id(context):x}")
        record.status = 200
        try:
            with span(f"inference.GRPCInferenceService/{method}", given) as tell:
                yield record
                tell({"rpc.system": "grpc", "rpc.method": method, "dlcv.model": record.model})
        except asyncio.CancelledError:
            record.status, record.refused = 499, "client_gone"
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:
            record.status, record.refused = 500, "internal"
            traceback.print_exc(file=sys.stderr)
            raise
        finally:
            self._note(context, method, record)

    def _note(self, context: Any, method: str, record: RequestRecord) -> None:
        code = "OK" if record.status == 200 else _code_name(record.status)
        metrics = self._serving.metrics
        metrics.count_request("grpc", record.model, code=code, seconds=record.seconds)
        if record.refused:
            metrics.count_refused(record.model, record.refused)
        if self._serving.log is not None:
            peer = context.peer()
            self._serving.log.write(
                log_record(record)
                | {"protocol": "grpc", "client": peer, "method": method, "status": code}
            )


async def _refuse(context: Any, record: RequestRecord, error: DlcvError) -> None:
    record.refused, record.status = reason_of(error), status_of(error)
    await context.abort(_CODES.get(record.status, grpc.StatusCode.UNKNOWN), str(error))


def request_from_message(message: Any) -> InferRequest:
    """Return the request of a `ModelInferRequest`.

    Raises:
        RequestError: it is malformed.
    """
    raw = list(message.raw_input_contents)
    require_one_image([tensor.name for tensor in message.inputs])
    if len(raw) > 1:
        raise RequestError(f"the request has 1 inputs, but {len(raw)} raw contents")
    (tensor,) = message.inputs
    if raw:
        images = array_from_bytes(raw[0], datatype=tensor.datatype, shape=tensor.shape)
    else:
        images = _array_from_contents(tensor)
    return InferRequest(
        images=images,
        outputs=tuple(
            WantedOutput(
                name=output.name,
                is_binary=True,
                classes=output.parameters["classification"].int64_param,
            )
            for output in message.outputs
        ),
        is_binary=True,
        id=message.id,
    )


def message_from_tensors(tensors: list[NamedTensor], *, model: ServedModel, request_id: str) -> Any:
    """Return a `ModelInferResponse`."""
    answer = service_pb2.ModelInferResponse(
        model_name=model.name, model_version=VERSION, id=request_id
    )
    for tensor in tensors:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        answer.raw_output_contents.append(bytes_from_array(tensor.array))
    return answer


def _array_from_contents(tensor: Any) -> Array:
    """Return a tensor whose values stand in the message's typed fields."""
    if tensor.datatype == "BYTES":
        files = np.array([*tensor.contents.bytes_contents, None], object)[
            :-1
        ]  # never one array of bytes
        if len(files) != int(np.prod(tensor.shape)):
            raise RequestError(
                f"'image' of shape {list(tensor.shape)} has {len(files)} files in the message"
            )
        return files.reshape(tensor.shape)
    values = np.array(tensor.contents.uint_contents, np.int64)
    return array_from_json(values, datatype=tensor.datatype, shape=tensor.shape)


def _metadata(context: Any) -> Mapping[str, str]:
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _code_name(status: int) -> str:
    return "CANCELLED" if status == 499 else _CODES.get(status, grpc.StatusCode.UNKNOWN).name
