"""Decoded images become batches: bounded, of one shape each, made of what waits.

Decoders `put` pixels, from any thread; inference threads, one an engine, take batches. None waits for more images while its
engine could run: what is there when it asks is the batch. Pixels are written once, into memory that an engine lends.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, final

import numpy as np

from dlcv.runtime.errors import ModelClosedError
from dlcv.runtime.images import UInt8

T = TypeVar("T")
Call: TypeAlias = Callable[[], None]
"""Something that only the thread of the first engine may do, such as a run of it on arrays."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Lent:
    """Memory for a batch. memory: flat uint8. engine: number of the one that lends it."""

    memory: UInt8
    engine: int = 0


@dataclass(kw_only=True, eq=False, slots=True)
class Batch(Generic[T]):
    """Images of one shape. memory: uint8 (capacity, H, W, 3). items: what was put with the images, a row each.

    lent: the memory that this batch occupies. unwritten: rows that a decoder is writing now.
    """

    memory: UInt8
    lent: Lent
    items: list[T] = field(default_factory=list)
    unwritten: int = 0

    @property
    def pixels(self) -> UInt8:
        """The images, uint8 (batch, H, W, 3)."""
        return self.memory[: len(self.items)]

    @property
    def is_ready(self) -> bool:
        """Whether every row is written."""
        return self.unwritten == 0


@final
class Batcher(Generic[T]):
    """Collects images into batches of equal shapes, at most `batch_size` in each.

    lent: pieces of memory, one for each batch that may be filled or computed at a time. A batch that does not fit
    into its piece gets memory of its own.
    """

    def __init__(self, batch_size: int, *, lent: Sequence[Lent]) -> None:
        self.batch_size = batch_size
        self._free = list(lent)
        self._batches: deque[Batch[T]] = deque()  # oldest first
        self._open: dict[tuple[int, ...], Batch[T]] = {}  # by shape: those that have room
        self._calls: deque[Call] = deque()
        self._closed = False
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # for inference threads
        self._room = threading.Condition(lock)  # for decoders
        self._written = threading.Condition(lock)  # for who frees the memory

    def put(self, pixels: UInt8, item: T) -> None:
        """Add an image, uint8 (H, W, 3); wait while all of the lent memory is in use.

        Raises:
            ModelClosedError: the batcher is closed.
        """
        with self._work:
            batch = self._batch_with_room(pixels.shape)
            row = len(batch.items)
            batch.items.append(item)
            batch.unwritten += 1
            if len(batch.items) >= len(batch.memory):
                del self._open[pixels.shape]
        try:
            np.copyto(batch.memory[row], pixels)  # without the lock: others write rows meanwhile
        finally:  # also after Ctrl-C: the other rows wait for this one
            with self._work:
                batch.unwritten -= 1
                if batch.is_ready:
                    self._work.notify()
                    self._written.notify_all()

    def call(self, function: Call) -> None:
        """Let the thread of the first engine call a function before its next batch.

        Raises:
            ModelClosedError: the batcher is closed.
        """
        with self._work:
            self._require_open()
            self._calls.append(function)
            self._work.notify_all()  # it is for one thread only

    def take(self, *, wait: bool, engine: int = 0) -> Batch[T] | Call | None:
        """Return what an engine is to do next: a call, which is for the first one, or a batch that is ready.

        None: nothing waits, and `wait` is false or the batcher is closed. Of the batches that are ready, an engine gets the
        oldest in its own memory, from which its device copies faster, or else the oldest.
        """
        with self._work:
            while not self._closed:
                if self._calls and engine == 0:
                    return self._calls.popleft()
                ready = [batch for batch in self._batches if batch.is_ready]
                if ready:
                    own = (batch for batch in ready if batch.lent.engine == engine)
                    return self._taken(next(own, ready[0]))
                if not wait:
                    return None
                self._work.wait()
            return None

    def give_back(self, batch: Batch[T]) -> None:
        """Let the memory of a batch be used again; its pixels must not be read any more."""
        with self._room:
            self._free.append(batch.lent)
            self._room.notify_all()

    def close(self) -> None:
        """Refuse what comes from now on, and let go of all who wait."""
        with self._work:
            self._closed = True
            self._work.notify_all()
            self._room.notify_all()

    def wait_written(self) -> None:
        """Wait until no decoder writes any more; to be called when this is closed, before lent memory is freed."""
        with self._written:
            self._written.wait_for(lambda: all(batch.is_ready for batch in self._batches))

    def _batch_with_room(self, shape: tuple[int, ...]) -> Batch[T]:
        while True:
            self._require_open()
            if (batch := self._open.get(shape)) is not None:
                return batch
            if self._free:
                return self._new_batch(shape)
            self._room.wait()

    def _new_batch(self, shape: tuple[int, ...]) -> Batch[T]:
        lent = self._free.pop()
        size = self.batch_size * math.prod(shape)
        flat: np.ndarray[Any, np.dtype[np.uint8]] = (
            lent.memory[:size] if size <= len(lent.memory) else np.empty(size, np.uint8)
        )
        batch: Batch[T] = Batch(memory=flat.reshape(self.batch_size, *shape), lent=lent)
        self._batches.append(batch)
        self._open[shape] = batch
        self._room.notify_all()  # others of this shape need no memory any more
        return batch

    def _taken(self, batch: Batch[T]) -> Batch[T]:
        self._batches.remove(batch)
        shape = batch.memory.shape[1:]
        if self._open.get(shape) is batch:
            del self._open[shape]
        return batch

    def _require_open(self) -> None:
        if self._closed:
            raise ModelClosedError("the model is closed; load the bundle again")
