"""The running model: an inference thread owns the engine, and everybody asks it.

    image -> place -> decode (a pool, or the caller's own thread) -> batcher -> inference thread -> future

An image takes one of a fixed number of places before it is decoded, so memory does not depend on how many images or
callers there are. The inference thread takes what waits, from whomever, as batches of one shape. Several devices have an
engine and a thread each, which take from one batcher: no device waits while there is a batch.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar, final

import numpy as np

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.engines.base import Arrays, Engine
from dlcv.runtime.errors import AnswerError, EngineError, ModelClosedError
from dlcv.runtime.images import DecodedImage, DecodeOptions, Frame, Source, load_pixels
from dlcv.runtime.machine.closing import Closing
from dlcv.runtime.results import Result
from dlcv.runtime.running.batcher import Batcher, Lent
from dlcv.runtime.running.inference_thread import InferenceThread
from dlcv.runtime.running.places import Places
from dlcv.runtime.running.tasks import Answered, ResultFunction

T = TypeVar("T")
OnBatch: TypeAlias = Callable[[int, float], object]
"""Told of each batch: its images, and the seconds from its start on the engine to its outputs."""
_RUNNING: weakref.WeakSet[RunningModel] = weakref.WeakSet()
_SHAPES_AT_ONCE = 4  # of a graph of dynamic size: so many batches may be filled at a time
_ONE_SHAPE = 2  # of one of fixed size: one that is filled, and one that is full and waits
_EXIT_SECONDS = 10.0  # how long the end of the program waits for a batch that computes


@dataclass(eq=False)
class Entry:
    """An image under way.

    source: as it was given, or decoded already. answer: from its outputs to what `future` gets. frame, note: known once
    it is decoded.
    """

    source: Source | DecodedImage
    answer: Callable[[Answered], Any]
    future: Future[Any] = field(default_factory=Future)
    frame: Frame | None = None
    note: str | None = None


@final
class RunningModel(Closing):
    """Answers images with results, for any number of threads at once. Each engine belongs to one thread of its own."""

    def __init__(  # noqa: PLR0913  # its one caller is the predictor
        self,
        engines: Sequence[Engine],
        *,
        preprocessing: Preprocessing,
        decode: DecodeOptions,
        result: ResultFunction,
        batch_size: int,
        image_bytes: int,
        workers: int,
        queue_size: int | None = None,
    ) -> None:
        """Start the inference threads.

        engines: one a device, all of the same graph; the first also runs what is called. preprocessing, decode: how images
        become pixels. result: from an image's outputs to its result. batch_size: images in one engine call at most.
        image_bytes: of the largest image's pixels. workers: decoding threads.
        queue_size: images under way at most; None: as many as keep engine and decoders busy.

        Raises:
            EngineError: there is not enough memory for the batches; the engines are closed.
        """
        self._preprocessing, self._options = preprocessing, decode
        self._result = result
        self._process = os.getpid()
        try:
            lent = _lent_memory(engines, batch_size * image_bytes)
        except BaseException:
            for engine in engines:
                engine.close()
            raise
        self.batcher: Batcher[Entry] = Batcher(batch_size, lent=lent)
        in_flight = sum(engine.batches_in_flight + 2 for engine in engines)
        self.places = Places(queue_size or batch_size * in_flight + 2 * workers)
        self.on_batch: OnBatch = lambda *_: None
        self._guard = threading.Lock()
        self._waiting: set[Future[Any]] = set()  # guarded: what is not answered yet
        self._stopped = False  # guarded
        self._inside = threading.local()  # whether the current thread is one of ours
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="dlcv-decode")
        self._serving = threading.Barrier(len(engines))  # an engine may copy from another's memory
        self._running = len(engines)  # guarded
        self._threads = [
            InferenceThread(engine, number=number, batcher=self.batcher, model=self)
            for number, engine in enumerate(engines)
        ]
        for thread in self._threads:
            thread.start()
        _RUNNING.add(self)

    def submit(
        self,
        sources: Sequence[Source | DecodedImage],
        *,
        wait: bool = True,
        answer: Callable[[Answered], Any] | None = None,
    ) -> list[Future[Any]]:
        """Give images to the decoding threads, all or none, and return the future of each one's result.

        answer: from an image's outputs to what its future gets; None: its result. A future that is cancelled before its
        image is decoded gives the place back at once.

        Raises:
            QueueFullError: too few places are free, and `wait` is false.
            InputError: there are more images than places.
            ModelClosedError: the model is closed, or was loaded before this process was forked.
        """
        self._require_this_process()
        self.places.take(len(sources), wait=wait and not self._is_inference_thread())
        entries = [self._entry(source, answer) for source in sources]
        try:
            for entry in entries:
                self._pool.submit(self._bring_from_pool, entry)
        except RuntimeError as e:  # the pool or the interpreter shuts down
            for entry in entries:
                self._settle(entry, error=_closed())
            raise _closed() from e
        return [entry.future for entry in entries]

    def answer(self, source: Source) -> Result:
        """Decode an image in this thread and return its result; for one image faster than the decoding threads.

        Raises:
            ImageError: the image cannot be read.
            ModelClosedError: as `submit`.
            EngineError: called from the inference thread, in a future's callback.
        """
        self._require_another_thread()
        self._require_this_process()
        self.places.take(wait=True)
        entry = self._entry(source, None)
        self._bring(entry)
        result: Result = entry.future.result()
        return result

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the first engine's thread, between batches, and return what it gives.

        Raises:
            ModelClosedError: as `submit`.
            EngineError: called from the inference thread, in a future's callback.
        """
        self._require_another_thread()
        future: Future[T] = Future()
        self._wait_for(future)

        def run() -> None:
            try:
                value = function()
            except BaseException as e:  # noqa: BLE001  # it is the caller's
                self._finish(future, error=e)
            else:
                self._finish(future, value=value)

        self.batcher.call(run)
        return future.result()

    def stop(self) -> None:
        """Begin to close, without waiting."""
        if os.getpid() != self._process:
            return  # the threads and what they hold are the parent's
        with self._guard:
            self._stopped = True
        self.places.close()
        self.batcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self, *, timeout: float | None = None) -> None:
        """Finish the batches that compute, refuse all others, free the engines, and end all threads.

        Those who wait get a `ModelClosedError`. timeout: seconds to wait for each batch that computes; None: to its end.
        """
        self.stop()
        if os.getpid() != self._process or getattr(self._inside, "value", False):
            return  # a thread of ours cannot wait for itself
        ended = [thread.join(timeout) for thread in self._threads]
        if all(ended):
            self._pool.shutdown(wait=True)
        self._settle_rest()
        for thread in self._threads:
            if thread.close_error is not None:
                raise thread.close_error

    def _entry(
        self, source: Source | DecodedImage, answer: Callable[[Answered], Any] | None
    ) -> Entry:
        """Make the entry of an image that has a place."""
        entry = Entry(source, answer or self._result)
        self._wait_for(entry.future)
        entry.future.add_done_callback(partial(self._if_cancelled, entry))
        return entry

    def _if_cancelled(self, entry: Entry, future: Future[Any]) -> None:
        if future.cancelled():
            entry.source = b""  # it may wait for its decoder a while longer
            self._settle(entry, error=CancelledError())

    def _wait_for(self, future: Future[Any]) -> None:
        self._require_this_process()
        with self._guard:
            if self._stopped:
                raise _closed()
            self._waiting.add(future)

    def _bring_from_pool(self, entry: Entry) -> None:
        self._inside.value = True
        self._bring(entry)

    def _bring(self, entry: Entry) -> None:
        """Decode an image and put it into a batch."""
        with self._guard:
            if entry.future not in self._waiting:
                return  # the model was closed
            is_wanted = entry.future.set_running_or_notify_cancel()
        if not is_wanted:
            return  # settled when it was cancelled
        try:
            source = entry.source
            if isinstance(source, DecodedImage):
                image = source
            else:
                image = load_pixels(source, self._preprocessing, self._options)
            entry.frame, entry.note = image.frame, image.note
            self.batcher.put(image.pixels, entry)
        except BaseException as e:  # noqa: BLE001  # it is the caller's
            self._settle(entry, error=e)

    def thread_began(self) -> None:
        """Note that the current thread is one of ours; see `Told`."""
        self._inside.value = True

    def batch_answered(
        self, items: Sequence[Entry], arrays: Arrays, *, ran: str, seconds: float
    ) -> None:
        """Answer a batch's images; see `Told`."""
        self.on_batch(len(items), seconds)
        for row, entry in enumerate(items):
            try:
                result = entry.answer(self._answered(entry, arrays, row, ran=ran))
            except Exception as e:  # noqa: BLE001  # it is this caller's
                self._settle(entry, error=e)
            else:
                self._settle(entry, result=result)

    def batch_failed(self, items: Sequence[Entry], error: Exception) -> None:
        """Tell an error to all who wait for a batch; see `Told`."""
        for entry in items:
            self._settle(entry, error=error)

    def thread_ends(self) -> None:
        """Close the model, and wait until nobody uses the engines' memory; see `Told`."""
        self.stop()
        self._serving.wait()
        self.batcher.wait_written()

    def thread_ended(self) -> None:
        """Answer who still waits, when the last engine is freed; see `Told`."""
        with self._guard:
            self._running -= 1
            is_last = not self._running
        if is_last:
            self._settle_rest()

    def _answered(self, entry: Entry, arrays: Arrays, row: int, *, ran: str) -> Answered:
        assert entry.frame is not None
        outputs = {name: array[row] for name, array in arrays.items()}
        require_numbers(outputs)
        return Answered(
            outputs=outputs,
            source=entry.source.pixels if isinstance(entry.source, DecodedImage) else entry.source,
            frame=entry.frame,
            engine=ran,
            decode=self._options,
            note=entry.note,
        )

    def _settle(
        self, entry: Entry, *, result: object = None, error: BaseException | None = None
    ) -> None:
        """Answer an image, once, and give its place back first: a callback may want it."""
        if entry.future in self._waiting:
            self.places.give_back()
        self._finish(entry.future, value=result, error=error)

    def _finish(
        self, future: Future[Any], *, value: object = None, error: BaseException | None = None
    ) -> None:
        with self._guard:
            self._waiting.discard(future)
        with suppress(InvalidStateError):  # cancelled, or settled by `close`
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def _settle_rest(self) -> None:
        """Answer all who still wait when the model is closed."""
        with self._guard:
            rest = list(self._waiting)
        for future in rest:
            self._finish(
                future,
                error=ModelClosedError(
                    "the model was closed before it answered; load the bundle again"
                ),
            )

    def _is_inference_thread(self) -> bool:
        return any(thread.is_current for thread in self._threads)

    def _require_another_thread(self) -> None:
        if self._is_inference_thread():
            raise EngineError(
                "a callback of a future runs on the inference thread, which would wait for itself; use submit(image), "
                "or ask from another thread"
            )

    def _require_this_process(self) -> None:
        if os.getpid() != self._process:
            raise ModelClosedError(
                "this model was loaded before the process was forked, and its threads stayed in the parent; load the "
                "bundle in each worker process"
            )


def require_numbers(outputs: Arrays) -> None:
    """Check that what the network gave for an image are numbers.

    Raises:
        AnswerError: there are NaN or infinite values.
    """
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise AnswerError(
                f"the network gave values that are not numbers ({name}); try --precision fp32, or train or export it again"
            )


def _lent_memory(engines: Sequence[Engine], size: int) -> list[Lent]:
    """Return memory for the batches that engines compute, and for those that are filled meanwhile, `size` bytes each."""
    lent = []
    for number, engine in enumerate(engines):
        has_dynamic_size = isinstance(engine.inputs[0].shape[1], str)
        count = engine.batches_in_flight + (_SHAPES_AT_ONCE if has_dynamic_size else _ONE_SHAPE)
        lent += [Lent(memory=engine.host_memory(size), engine=number) for _ in range(count)]
    return lent


def _closed() -> ModelClosedError:
    return ModelClosedError("the model is closed; load the bundle again")


@atexit.register
def _close_all() -> None:
    """End all inference threads before the interpreter takes their modules away."""
    for model in list(_RUNNING):
        with suppress(Exception):
            model.close(timeout=_EXIT_SECONDS)
