"""Waits for the running model's futures on the event loop: to a deadline, and only while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from dlcv.runtime.serving.errors import ClientGoneError, DeadlineError

T = TypeVar("T")
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def outcomes(futures: Sequence[Future[T]], *, seconds: float) -> list[T | BaseException]:
    """Return what each future gives, or its error. Those that are not done are cancelled when this ends early.

    Raises:
        DeadlineError: they take longer than `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    except TimeoutError as e:
        raise DeadlineError(
            f"no answer within {seconds:g} s; send fewer requests at a time, or start the server with a longer --timeout"
        ) from e


async def values(futures: Sequence[Future[T]], *, seconds: float) -> list[T]:
    """Return what the futures give. Raises the first error of theirs, or as `outcomes`."""
    found: list[T] = []
    for outcome in await outcomes(futures, seconds=seconds):
        if isinstance(outcome, BaseException):
            raise outcome
        found.append(outcome)
    return found


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is done meanwhile when the client goes away. The request's body must have been read.

    Raises:
        ClientGoneError: it went away.
    """
    task = asyncio.current_task()
    assert task is not None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not is_gone:
            raise
        task.uncancel()
        raise ClientGoneError("the client went away before it was answered") from None
    finally:
        watcher.cancel()
