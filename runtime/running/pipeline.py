"""The row of plain functions that images pass through: decode, batch, infer, unbatch.

    sources -> decode pool -> batches by shape -> engine -> results

Every queue is bounded, so memory does not depend on the number of images; order is kept; a slow
stage makes the ones before it wait. Decoding and inference overlap: the pool decodes the next
images while the engine works.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")
_POLL_SECONDS = 0.1  # how soon a background thread notices that nobody reads on


def ordered_map(
    function: Callable[[S], T], items: Iterable[S], *, pool: Executor, limit: int
) -> Iterator[T]:
    """Yield `function(item)` in order, with up to `limit` calls under way or finished ahead."""
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def batches_by_shape(
    window: list[T], shape: Callable[[T], tuple[int, ...] | None], *, size: int
) -> Iterator[list[int]]:
    """Yield the positions in `window` of items that may run together: equal shapes, at most `size`.

    Items whose shape is None belong to no batch.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, item in enumerate(window):
        if (key := shape(item)) is not None:
            groups.setdefault(key, []).append(position)
    for positions in groups.values():
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def in_background(items: Generator[T, None, None], *, depth: int) -> Iterator[T]:
    """Yield from `items`, which a thread of its own runs up to `depth` items ahead.

    An exception in `items` is raised here, after the items before it. Closing this iterator ends
    the thread.
    """
    ready: queue.Queue[_Item[T] | _End] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(
        target=_fill, args=(items, ready, stopped), name="dlcv-infer", daemon=True
    )
    thread.start()
    try:
        while isinstance(entry := ready.get(), _Item):
            yield entry.value
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        thread.join()


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def _fill(
    items: Generator[T, None, None], ready: queue.Queue[_Item[T] | _End], stopped: threading.Event
) -> None:
    def put(entry: _Item[T] | _End) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(entry, timeout=_POLL_SECONDS)
                return True
        return False

    try:
        if all(put(_Item(item)) for item in items):
            put(_End())
    except BaseException as e:  # noqa: BLE001  # handed to the reader, whose error it is
        put(_End(e))
    finally:
        items.close()
