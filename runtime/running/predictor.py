"""A bundle on an engine: images in, results out."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar, final

import msgspec
import numpy as np
from PIL import Image

from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.schema import Precision, Preprocessing, VariantName
from dlcv.runtime.engines import Choice, engine_entry
from dlcv.runtime.engines.base import (
    DEFAULT_BATCH_SIZE,
    LARGE_IMAGE,
    Arrays,
    Engine,
    EngineOptions,
    check_feeds,
)
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import DecodedImage, DecodeOptions, Refused, Source, name_of
from dlcv.runtime.machine.closing import Closing
from dlcv.runtime.machine.system import cpu_count
from dlcv.runtime.results import Result
from dlcv.runtime.running.devices import options_and_devices, started_engines
from dlcv.runtime.running.model import OnBatch, RunningModel
from dlcv.runtime.running.tasks import Answered, LoadRequest, TaskOptions, parts_of_task

Answer = TypeVar("Answer")
T = TypeVar("T")
ONE_IMAGE = (str, Path, bytes, np.ndarray, Image.Image)  # what is one image, and not several


def load(  # noqa: PLR0913  # the front door
    bundle: str | Path | Bundle,
    *,
    engine: str = "auto",
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    options: EngineOptions | None = None,
    longest_side: int | None = None,
    search: TaskOptions | None = None,
    decode: DecodeOptions | None = None,
    queue_size: int | None = None,
    devices: Sequence[int] | None = None,
) -> Predictor:
    """Open a bundle (a folder, or a built-in bundle's name) and load it on an engine.

    outputs: names of the wanted outputs, such as ("mask",); what only others need is not computed.
    options: threads, batch size and the engine's own settings; None lets a tuning choose, where there is one.
    longest_side: run a graph of dynamic size at another scale than the manifest's, in pixels.
    search: how a captioner finds its words; None: greedily.
    decode: what image files do not say of themselves, such as the depth of their values.
    queue_size: images under way at most, of all callers together; None: as many as keep engine and decoders busy.
    devices: numbers of the GPUs that share the images, such as (0, 1); None: the engine's own setting, or the first.

    Raises:
        BundleError: the bundle is malformed or lacks what was asked for.
        InputError: an option does not fit, or the tokenizers library is missing for a captioner.
        EngineUnavailableError: the engine is unknown, not installed, or cannot start here.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    preprocessing = scaled(opened, longest_side)
    own, numbers = options_and_devices(options or EngineOptions(), devices)
    request = LoadRequest(
        bundle=opened,
        choice=Choice(engine=engine, precision=precision or "fp32", options=own),
        outputs=outputs,
        largest=preprocessing.size,
        options=search,
    )
    choice, (first, *others) = started_engines(request, numbers, precision=precision)
    return Predictor(
        opened,
        first,
        more_engines=others,
        batch_size=choice.options.batch_size or _default_batch(choice, preprocessing),
        preprocessing=preprocessing,
        variant=opened.variant_name(choice.precision, target=engine_entry(choice.engine).target),
        decode=decode,
        queue_size=queue_size,
        why=choice.why,
    )


@final
class Predictor(Closing):
    """Answers images with results. Any number of threads may use one at the same time.

    One inference thread owns the engine; calls, streams and submitted images of all threads share its batches. Engines on
    several devices have a thread each and share the batches.
    """

    def __init__(  # noqa: PLR0913  # all but two have defaults
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        more_engines: Sequence[Engine] = (),
        batch_size: int = DEFAULT_BATCH_SIZE,
        preprocessing: Preprocessing | None = None,
        workers: int | None = None,
        variant: VariantName | None = None,
        decode: DecodeOptions | None = None,
        queue_size: int | None = None,
        why: str = "",
    ) -> None:
        """Take over a loaded engine, which `close` frees.

        more_engines: the same graph on other devices, taken over too. batch_size: images in one engine call at most.
        workers: decoding threads; None: one a core.
        variant: whose graph the engine was given; None: the default one. decode: what image files do not say of
        themselves, such as the depth of their values. queue_size: images under way at most; None: as many as keep engine
        and decoders busy. why: a sentence, where dlcv chose a lower precision than the bundle's own.

        Raises:
            InputError: the batch size is less than 1.
            EngineError: there is not enough memory for the batches; the engines are closed.
        """
        if batch_size < 1:
            raise InputError(f"batch size must be 1 or more, not {batch_size}")
        self.bundle = bundle
        self.engine = engine
        self.engines = (engine, *more_engines)
        self.preprocessing = preprocessing or bundle.manifest.preprocessing
        self.workers = workers or cpu_count()
        self.why = why
        self.variant: VariantName = variant or bundle.variant_name()
        self._result = parts_of_task(bundle.manifest.task).result(bundle)
        self._model = RunningModel(
            self.engines,
            preprocessing=self.preprocessing,
            decode=decode or DecodeOptions(),
            result=self._result,
            batch_size=batch_size,
            image_bytes=_image_bytes(self.preprocessing),
            workers=self.workers,
            queue_size=queue_size,
        )
        weakref.finalize(self, self._model.stop)  # one that is forgotten leaves no thread

    @property
    def batch_size(self) -> int:
        """Images in one engine call at most; may be changed while nothing is under way."""
        return self._model.batcher.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._model.batcher.batch_size = size

    @property
    def queue_size(self) -> int:
        """Images that are under way at most, of all callers together."""
        return self._model.places.count

    @property
    def under_way(self) -> int:
        """Images that are under way now."""
        return self._model.places.taken

    def observe(self, on_batch: OnBatch) -> None:
        """Let a function be told of each batch: its images, and its seconds on the engine. It runs on the batch's inference thread."""
        self._model.on_batch = on_batch

    def __call__(self, images: Source | Iterable[Source]) -> list[Result]:
        """Return the result of every image, in order. One image may be given without a list.

        images: paths, URLs, bytes of files, PIL images, or uint8 arrays (H, W, 3) RGB.

        Raises:
            ImageError: an image cannot be read; `stream` skips and reports such images instead.
            AnswerError: an `ImageError`: what the network gave for an image is no answer.
            ModelClosedError: the model is closed, or was loaded before this process was forked.
        """
        if isinstance(images, ONE_IMAGE):
            try:
                return [self._model.answer(images)]
            except ImageError as e:
                raise ImageError(f"{name_of(images)}: {e}") from e
        return none_refused(self.stream(images))

    def submit(self, image: Source, *, wait: bool = True) -> Future[Result]:
        """Give an image to the model and return the future of its result, at once while there is a place for it.

        wait: while the model holds `queue_size` images, wait for a place. Callbacks of the future run on the inference
        thread: keep them short.

        Raises:
            QueueFullError: there is no place, and `wait` is false.
            ModelClosedError: the model is closed, or was loaded before this process was forked.
        """
        return self._model.submit([image], wait=wait)[0]

    def submit_for_outputs(
        self, images: Sequence[Source | DecodedImage], *, wait: bool = True
    ) -> list[Future[Answered]]:
        """Give images to the model, all or none, and return the futures of their graph outputs, without a batch axis.

        images: a `DecodedImage` has pixels of the graph's size already, and is not resized.

        Raises:
            InputError: pixels do not fit the graph, or there are more images than `queue_size`.
            QueueFullError: too few places are free, and `wait` is false.
            ModelClosedError: the model is closed, or was loaded before this process was forked.
        """
        for image in images:
            if isinstance(image, DecodedImage):
                self._require_fits(image)
        return self._model.submit(images, wait=wait, answer=lambda answered: answered)

    def submit_many(self, images: Sequence[Source], *, wait: bool = True) -> list[Future[Result]]:
        """Give several images to the model, all or none, and return the future of each one's result. Raises as `submit`.

        Raises:
            InputError: there are more images than `queue_size`.
        """
        return self._model.submit(images, wait=wait)

    def result_of(self, answered: Answered) -> Result:
        """Return the result that an image's outputs mean."""
        return self._result(answered)

    def _require_fits(self, image: DecodedImage) -> None:
        check_feeds(self.engine.inputs, {"image": image.pixels[None]})
        multiple = self.preprocessing.multiple
        if any(side % multiple for side in image.pixels.shape[:2]):
            raise InputError(
                f"height and width of the graph's pixels are multiples of {multiple}; received {image.pixels.shape[:2]}"
            )

    def stream(self, sources: Iterable[Source | Refused]) -> Iterator[Result | Refused]:
        """Yield a result for every source, in order; memory does not depend on their number.

        An image that cannot be read gives a `Refused`; one that comes in is passed through. Sources are taken up to
        `queue_size` ahead of the results.
        """
        started: deque[Refused | tuple[Source, Future[Result]]] = deque()
        try:
            for source in sources:
                if isinstance(source, Refused):
                    started.append(source)
                else:
                    started.append((source, self.submit(source)))
                while started and (len(started) >= self.queue_size or _is_done(started[0])):
                    yield _answer(started.popleft())
            while started:
                yield _answer(started.popleft())
        finally:
            for item in started:
                if not isinstance(item, Refused):
                    item[1].cancel()

    def run(self, pixels: np.ndarray[Any, Any]) -> Arrays:
        """Run the graph on pixels of the graph's size, uint8 (batch, H, W, 3), and return arrays."""
        feeds = {"image": np.ascontiguousarray(pixels)}
        return self._model.call(lambda: self.engine.infer(feeds))

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the inference thread of `engine`, between batches, and return what it gives.

        For what belongs to the same device as that engine, such as another graph of the bundle.
        """
        return self._model.call(function)

    def results(self, images: Sequence[DecodedImage], *, sources: Sequence[Source]) -> list[Result]:
        """Return the results of one batch of decoded images, all of one size."""
        arrays = self.run(np.stack([image.pixels for image in images]))
        engine = str(self.engine.info)
        return [
            self._result(
                Answered(
                    outputs={name: array[number] for name, array in arrays.items()},
                    source=source,
                    frame=image.frame,
                    engine=engine,
                )
            )
            for number, (image, source) in enumerate(zip(images, sources, strict=True))
        ]

    def description(self) -> dict[str, Any]:
        """Return what runs, for `run.json`: bundle, engine, device, precision, settings."""
        import dlcv

        info = self.engine.info
        widths = {spec.name: spec.shape[1] for spec in self.engine.outputs if len(spec.shape) == 2}
        return {
            "dlcv": dlcv.__version__,
            "bundle": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.sha256,
            "task": self.bundle.manifest.task,
            "engine": info.name,
            "engine_version": info.version,
            "device": "; ".join(engine.info.device for engine in self.engines),
            "precision": info.precision,
            "variant": self.variant,
            "resize": self.preprocessing.resize,
            "input_size": list(self.preprocessing.size),
            "embedding_width": widths.get("embedding"),
        }

    def close(self) -> None:
        """End the inference threads and free the engines. Those who wait for answers get a `ModelClosedError`."""
        self._model.close()


def none_refused(answers: Iterable[Answer | Refused]) -> list[Answer]:
    """Return the answers of a stream.

    Raises:
        ImageError: one is a refusal.
    """
    found: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Refused):
            raise ImageError(f"{answer.name}: {answer.reason}")
        found.append(answer)
    return found


def _is_done(item: Refused | tuple[Source, Future[Result]]) -> bool:
    return isinstance(item, Refused) or item[1].done()


def _answer(item: Refused | tuple[Source, Future[Result]]) -> Result | Refused:
    """Wait for a result; an image that cannot be read, or gets no answer that could be used, is refused."""
    if isinstance(item, Refused):
        return item
    source, future = item
    try:
        return future.result()
    except ImageError as e:
        text = source if isinstance(source, (str, Path)) else name_of(source)
        return Refused(source=text, reason=str(e))


def _default_batch(choice: Choice, preprocessing: Preprocessing) -> int:
    """Return the images in one engine call where nobody said: on a CPU one of large images, which keep all cores busy.

    More would cost memory and gain nothing.
    """
    height, width = preprocessing.size
    is_large = height * width > LARGE_IMAGE
    return 1 if is_large and not engine_entry(choice.engine).needs_gpu else DEFAULT_BATCH_SIZE


def _image_bytes(preprocessing: Preprocessing) -> int:
    """Return the bytes of the largest image's pixels: of dynamic size, a square one's."""
    height, width = preprocessing.size
    if preprocessing.resize == "longest_side":
        height = width = max(height, width)
    return height * width * preprocessing.channels


def scaled(bundle: Bundle, longest_side: int | None) -> Preprocessing:
    """Return the bundle's preprocessing at another longer side in pixels; None changes nothing.

    Raises:
        InputError: the bundle runs at one size only.
    """
    preprocessing = bundle.manifest.preprocessing
    if longest_side is None:
        return preprocessing
    if preprocessing.resize != "longest_side":
        height, width = preprocessing.size
        raise InputError(
            f"bundle {bundle.manifest.name!r} runs at {height}x{width} only; its size cannot be changed"
        )
    multiple = preprocessing.multiple
    side = max(1, round(longest_side / multiple)) * multiple
    return msgspec.structs.replace(preprocessing, size=(side, side))
