"""The outermost layer of the HTTP application: request ids, keys, errors as JSON, the access log, metrics, spans."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias, final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dlcv.runtime.errors import DlcvError
from dlcv.runtime.results.lines import json_text
from dlcv.runtime.serving.errors import NotReadyError, reason_of, status_of
from dlcv.runtime.serving.state import Serving
from dlcv.runtime.serving.tracing import span

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_AFTER_S = 1
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
_OPEN_FOLDER = "/page/"
_KEY_IN = "dlcv.record"


@dataclass
class RequestRecord:
    """What becomes known of a request while it is answered. model: only a name that is served. refused: the reason."""

    id: str
    model: str = ""
    images: int = 0
    refused: str = ""
    status: int = 0
    bytes_out: int = 0
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the request's head."""
        return time.perf_counter() - self.start


def record_of(request: Request) -> RequestRecord:
    """Return the record of a request, to be filled in."""
    record: RequestRecord = request.scope[_KEY_IN]
    return record


def json_response(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a value as JSON."""
    return Response(
        json_text(value).encode(), status, headers=headers, media_type="application/json"
    )


def error_response(message: str, *, status: int) -> Response:
    """Return `{"error": message}`."""
    headers = {}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response({"error": message}, status=status, headers=headers)


async def on_dlcv_error(request: Request, error: Exception) -> Response:
    """Answer what cannot be done."""
    assert isinstance(error, DlcvError)
    record_of(request).refused = reason_of(error)
    return error_response(str(error), status=status_of(error))


async def on_bug(request: Request, _: Exception) -> Response:
    """Answer where the server failed; Starlette raises the error again, so that `Edge` can write it to the log."""
    record = record_of(request)
    record.refused = "internal"
    message = f"an error of the server's own; its log has more under the id {record.id}"
    return error_response(message, status=500)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    record_of(request).refused = "bad_request"
    allowed = (error.headers or {}).get("Allow", "")
    path = request.url.path[:80]
    message = {
        404: f"there is nothing at {path}; see /openapi.json for what there is",
        405: f"{path} takes {allowed}, not {request.method}",
    }.get(error.status_code, error.detail)
    response = error_response(message, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


@final
class Edge:
    """Wraps an ASGI application."""

    def __init__(self, app: App, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise HTTPException(426)  # a server that speaks WebSocket closes it then
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        record = RequestRecord(given if _ID.fullmatch(given) else secrets.token_hex(8))
        scope[_KEY_IN] = record
        name = f"{scope['method']} {_route(scope['path'])}"
        try:
            with span(name, headers) as tell:
                await self._answer(scope, receive, _recording(send, record))
                tell(
                    {
                        "http.request.method": scope["method"],
                        "http.response.status_code": record.status,
                        "url.path": scope["path"],
                        "dlcv.model": record.model,
                        "dlcv.images": record.images,
                    }
                )
        finally:
            self._note(scope, record, headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
                self._serving.require_key(
                    request.headers.get("authorization", ""), request.headers.get("x-api-key", "")
                )
            await self._app(scope, receive, send)
        except DlcvError as e:
            await (await on_dlcv_error(request, e))(scope, receive, send)
        except asyncio.CancelledError:  # the time for requests under way is over
            late = NotReadyError("the server ended before this request was answered; send it again")
            if not record_of(request).status:
                await (await on_dlcv_error(request, late))(scope, receive, send)
        except Exception as e:  # noqa: BLE001  # a bug of ours keeps its traceback, and the server runs on
            sys.stderr.write(f"request {record_of(request).id} failed:\n{traceback.format_exc()}")
            if not record_of(request).status:
                await (await on_bug(request, e))(scope, receive, send)

    def _note(self, scope: Scope, record: RequestRecord, headers: Headers) -> None:
        status = record.status or 499  # nobody was there to be answered
        metrics = self._serving.metrics
        metrics.count_request("http", record.model, code=str(status), seconds=record.seconds)
        if status >= 400:
            metrics.count_refused(record.model, record.refused or "client_gone")
        if self._serving.log is None:
            return
        self._serving.log.write(
            log_record(record)
            | {
                "protocol": "http",
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "bytes_in": int(length)
                if (length := headers.get("content-length", "0")).isdecimal()
                else 0,
                "bytes_out": record.bytes_out,
            }
        )


def log_record(record: RequestRecord) -> dict[str, Any]:
    """Return what a line of the access log says of every request. `seconds`: to the end of the answer."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": record.id,
        "model": record.model,
        "images": record.images,
        "seconds": round(record.seconds, 6),
        **({"refused": record.refused} if record.refused else {}),
    }


def _recording(send: Send, record: RequestRecord) -> Send:
    async def recorded(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", record.id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        else:
            record.bytes_out += len(message.get("body", b""))
        await send(message)

    return recorded


def _route(path: str) -> str:
    """Return a path without the names in it: spans are named by what is done."""
    parts = path.split("/")
    if len(parts) > 2 and parts[1] in ("predict", "prototypes", "page"):
        return f"/{parts[1]}/{{name}}"
    return (
        "/v2/models/{name}" + "/".join(["", *parts[4:]]) if path.startswith("/v2/models/") else path
    )
