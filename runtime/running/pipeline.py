"""Iterators over bounded work: an ordered map in a pool, windows of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")


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
