"""Reads a request's body: within limits of bytes and time, decompressed, images of a form."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import final

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from dlcv.runtime.serving.errors import (
    BodyTooLargeError,
    BusyError,
    ClientGoneError,
    RequestError,
    SlowClientError,
)
from dlcv.runtime.serving.options import MIB, Limits

_SLOWEST = 64 * 2**10  # bytes a second of a client that is waited for
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_MAX_PARTS = 1000  # of a form


@final
class BodyBudget:
    """How many bytes of bodies the server holds at a time, of all requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """Count a request's bytes; they are given back at the end."""
        held = Held(self)
        try:
            yield held
        finally:
            self._held -= held.count

    def take(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            BusyError: they are too many.
        """
        if self._held + count > self._limit:
            raise BusyError(
                f"the requests under way hold {self._held / MIB:.0f} MiB, which is all the server takes; try again later"
            )
        self._held += count


@dataclass
class Held:
    """Bytes of one request."""

    budget: BodyBudget
    count: int = 0

    def take(self, count: int) -> None:
        """Hold more bytes. Raises as `BodyBudget.take`."""
        self.budget.take(count)
        self.count += count


@dataclass(frozen=True, kw_only=True)
class FormImage:
    """An image of a form. field: the name of its field. name: of the file."""

    field: str
    name: str
    data: bytes


@asynccontextmanager
async def body_of(request: Request, budget: BodyBudget, limits: Limits) -> AsyncIterator[bytes]:
    """Read a request's body, decompressed, and count it as held meanwhile.

    Raises:
        BodyTooLargeError: it is larger than `limits.body_bytes`, or becomes so.
        SlowClientError: it does not come in time.
        ClientGoneError: it does not come to its end.
        BusyError: the server holds too many bytes already.
        RequestError: it is damaged, or compressed in another way.
    """
    with budget.holding() as held:
        data = await _read(request, held, limits)
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        yield data if encoding == "identity" else _decompressed(data, encoding, held, limits)


async def form_images(data: bytes, headers: Headers) -> list[FormImage]:
    """Return the files of a multipart form, in order. Fields that are no files are passed over.

    Raises:
        RequestError: it is damaged, or holds no file.
    """

    async def once() -> AsyncGenerator[bytes, None]:
        yield data

    try:
        form = await _FormInMemory(
            headers, once(), max_files=_MAX_PARTS, max_fields=_MAX_PARTS
        ).parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as e:
        raise RequestError(f"the form cannot be read: {' '.join(str(e).split())[:120]}") from e
    images = [
        FormImage(field=field, name=item.filename or field, data=item.file.read())
        for field, item in form.multi_items()
        if isinstance(item, UploadFile)
    ]
    await form.close()
    if not images:
        raise RequestError(
            "the form holds no file: send an image, as curl -F image=@photo.jpg does"
        )
    return images


class _FormInMemory(MultiPartParser):
    """Of a body that is in memory already: nothing goes to the disk."""

    spool_max_size = 2**62


async def _read(request: Request, held: Held, limits: Limits) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.body_bytes:
        raise _too_large(int(announced), limits)
    start = asyncio.get_running_loop().time() + limits.client_timeout_s
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(start) as clock:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise _too_large(size, limits)
                held.take(len(chunk))
                chunks.append(chunk)
                clock.reschedule(start + size / _SLOWEST)
    except TimeoutError as e:
        raise SlowClientError(
            f"the request's body did not come within {limits.client_timeout_s:g} s and a second each 64 KiB"
        ) from e
    except ClientDisconnect as e:
        raise ClientGoneError("the client went away before its request was whole") from e
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]


def _decompressed(data: bytes, encoding: str, held: Held, limits: Limits) -> bytes:
    if encoding not in _WINDOW_BITS:
        raise RequestError(
            f"the body's encoding {encoding[:20]!r} is not known; send gzip, deflate, or none"
        )
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        whole = inflater.decompress(data, limits.body_bytes + 1)
    except zlib.error as e:
        raise RequestError(f"the body is not {encoding}: {e}") from e
    if len(whole) > limits.body_bytes:
        raise _too_large(len(whole), limits)
    if not inflater.eof or inflater.unused_data:
        raise RequestError(f"the body is not one whole {encoding} stream")
    held.take(len(whole))
    return whole


def _too_large(size: int, limits: Limits) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body has {size:,} bytes or more, at most {limits.body_bytes:,} are taken; send fewer or smaller images, "
        "or start the server with a larger --max-body"
    )
