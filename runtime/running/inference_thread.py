"""The inference thread of an engine: it alone uses the engine, from the first batch until the engine is freed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Generic, Protocol, TypeAlias, TypeVar, final

from dlcv.runtime.engines.base import Arrays, Engine
from dlcv.runtime.errors import EngineError
from dlcv.runtime.running.batcher import Batch, Batcher

T = TypeVar("T")
Item_contra = TypeVar("Item_contra", contravariant=True)
_Started: TypeAlias = "tuple[Batch[T], Callable[[], Arrays], float]"


class Told(Protocol[Item_contra]):
    """What an inference thread tells its model, on that thread."""

    def thread_began(self) -> None:
        """Hear that the current thread is one of the model's."""
        ...

    def batch_answered(
        self, items: Sequence[Item_contra], arrays: Arrays, *, ran: str, seconds: float
    ) -> None:
        """Take the outputs of a batch. ran: the engine, in words. seconds: from its start on the engine."""
        ...

    def batch_failed(self, items: Sequence[Item_contra], error: Exception) -> None:
        """Hear that a batch has no answers."""
        ...

    def thread_ends(self) -> None:
        """Hear that this thread takes no more batches; the engine is not freed yet."""
        ...

    def thread_ended(self) -> None:
        """Hear that the engine is freed."""
        ...


@final
class InferenceThread(Generic[T]):
    """Runs an engine on what a batcher has, until the batcher is closed; then it frees the engine.

    number: of this engine among those that share the batcher. An engine on a device has two batches in flight: while one
    computes, the next is copied.
    """

    def __init__(self, engine: Engine, *, number: int, batcher: Batcher[T], model: Told[T]) -> None:
        self.close_error: Exception | None = None
        self._engine, self._number = engine, number
        self._batcher, self._model = batcher, model
        self._ran = str(engine.info)
        self._started: deque[_Started[T]] = deque()
        name = f"dlcv-infer-{number}" if number else "dlcv-infer"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def join(self, timeout: float | None) -> bool:
        """Wait for the end at most so many seconds; return whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def _serve(self) -> None:
        self._model.thread_began()
        try:
            while self._serve_next():
                pass
        finally:
            self._model.thread_ends()
            try:
                self._engine.close()
            except Exception as e:  # noqa: BLE001  # raised when the model is closed
                self.close_error = e
            self._model.thread_ended()

    def _serve_next(self) -> bool:
        """Start what waits, or finish what was started; return whether there may be more."""
        started = self._started
        work = self._batcher.take(wait=not started, engine=self._number)
        if work is None and not started:
            return False
        if isinstance(work, Batch):
            self._start(work)
        elif work is not None:
            while started:
                self._collect(*started.popleft())
            work()
        if started and (work is None or len(started) >= self._engine.batches_in_flight):
            self._collect(*started.popleft())
        return True

    def _start(self, batch: Batch[T]) -> None:
        try:
            begin = perf_counter()
            self._started.append((batch, self._engine.start({"image": batch.pixels}), begin))
        except Exception as e:  # noqa: BLE001  # it is the callers'
            self._fail(batch, e)

    def _collect(self, batch: Batch[T], finish: Callable[[], Arrays], begin: float) -> None:
        """Wait for a batch's outputs and hand them over."""
        try:
            arrays = finish()
            require_rows(arrays, len(batch.items))
        except Exception as e:  # noqa: BLE001  # it is the callers'
            self._fail(batch, e)
            return
        self._batcher.give_back(batch)
        seconds = perf_counter() - begin
        self._model.batch_answered(batch.items, arrays, ran=self._ran, seconds=seconds)

    def _fail(self, batch: Batch[T], error: Exception) -> None:
        self._batcher.give_back(batch)
        self._model.batch_failed(batch.items, error)


def require_rows(arrays: Arrays, count: int) -> None:
    """Check that a graph gave as many answers as it got images.

    Raises:
        EngineError: it did not.
    """
    for name, array in arrays.items():
        if array.shape[:1] != (count,):
            raise EngineError(
                f"the graph ignores its batch: of {count} images it gave {name!r} {array.shape}; export it with a "
                "dynamic batch, or give --batch 1"
            )
