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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import islice
from typing import TypeVar

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


def in_background(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """Yield from `items`, which a thread of its own runs up to `depth` items ahead.

    An exception in `items` is raised here, after the items before it. Closing this iterator ends
    the thread.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(last: bool, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put((last, value), timeout=_POLL_SECONDS)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(False, item):
                    break
            put(True, None)
        except BaseException as e:  # handed to the reader, whose error it is
            put(True, e)
        finally:
            if close := getattr(items, "close", None):
                close()

    thread = threading.Thread(target=run, name="dlcv-infer", daemon=True)
    thread.start()
    try:
        while True:
            last, value = ready.get()
            if not last:
                yield value  # type: ignore[misc]  # what is not last is an item
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()
