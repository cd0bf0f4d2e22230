"""uvicorn's HTTP protocol with what it leaves to a proxy: time limits, sizes of heads, ambiguous framing, errors as JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_MAX_HEAD_BYTES = 64 * 2**10
_MAX_HEADERS = 100
_LINGER_S = 1.0


class _MalformedError(Exception):
    """The head of a request is not one that everybody reads in the same way."""


def http_protocol(*, client_timeout_s: float, connections: int) -> type[HttpToolsProtocol]:
    """Return a class for `uvicorn.Config(http=...)`.

    client_timeout_s: for a client to send a request's head, to take an answer, and to send the rest of a body that
    nobody reads. connections: open at a time; more are closed at once.
    """

    class Protocol(GuardedProtocol):
        seconds = client_timeout_s
        most_connections = connections

    return Protocol


class GuardedProtocol(HttpToolsProtocol):
    """Ends connections that take too long or are malformed."""

    seconds = 20.0
    most_connections = 512
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _is_in_head = True
    _is_in_body = False
    _is_refused = False
    _problem = (400, "this is not HTTP")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request's head soon."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._refuse(
                503,
                f"{self.most_connections} connections are open, which is all the server holds; try later",
            )
            return
        self._expect(self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._expect(None)
        self._end_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of a head."""
        if self._is_refused or self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if (
            self._is_in_head
            and self._head_bytes > _MAX_HEAD_BYTES
            and not self.transport.is_closing()
        ):
            self._refuse(*_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._expect(self._head_is_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, within limits."""
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADERS:
            self._problem = _HEAD_TOO_LARGE
            raise _MalformedError

    def on_headers_complete(self) -> None:
        """Begin to answer, where everybody agrees on where the body ends."""
        parser: Any = self.parser  # there is one as long as there is a connection
        if (problem := _framing_problem(self.headers, parser.get_http_version())) is not None:
            self._problem = (400, problem)
            raise _MalformedError
        self._is_in_head, self._is_in_body = False, True
        self._expect(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._is_in_body = False
        self._is_in_head, self._head_bytes = True, 0
        self._expect(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Do not wait for ever for the rest of a body that nobody reads."""
        super().on_response_complete()
        if self._is_in_body:
            self._expect(self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not read: give it some time."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._end_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(*self._problem)

    def _unsupported_upgrade_warning(self) -> None:
        """Go on without the upgrade, and without a word: HTTP lets a server ignore it."""

    def _expect(self, too_late: Any) -> None:
        """Call a function unless something comes in time; None: nothing is expected now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if too_late is None else self.loop.call_later(self.seconds, too_late)

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._refuse(408, f"the request's head did not come within {self.seconds:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error, and close when the client has had a moment to read it.

        A connection that is closed while bytes come in is reset, and the answer may be lost.
        """
        body = json.dumps({"error": message}).encode()
        head = (
            b"content-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self._is_refused = True
        self.transport.write(STATUS_LINE[status] + head + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._expect(None)
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)


_HEAD_TOO_LARGE = (
    431,
    f"the request's head has more than {_MAX_HEADERS} headers or {_MAX_HEAD_BYTES // 2**10} KiB",
)


def _framing_problem(headers: list[tuple[bytes, bytes]], version: str) -> str | None:
    """Return what is ambiguous in a head: proxies and servers must agree on where a request ends (RFC 9112, 6.3)."""
    names = [name for name, _ in headers]
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here; use HTTP/1.1"
    for name in (b"content-length", b"transfer-encoding", b"host"):
        if names.count(name) > 1:
            return f"the request has the header {name.decode()} twice"
    coding = next((value for name, value in headers if name == b"transfer-encoding"), None)
    if coding is None:
        return None
    if coding.strip().lower() != b"chunked" or version == "1.0":
        return "the only transfer-encoding is chunked, of HTTP/1.1"
    if b"content-length" in names:
        return "the request has both content-length and transfer-encoding"
    return None
