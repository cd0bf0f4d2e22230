"""A bundle on an engine: images in, results out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import msgspec
import numpy as np
from PIL import Image

from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.schema import Precision, Preprocessing
from dlcv.runtime.engines import choose
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE, Arrays, Engine, EngineOptions
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import DecodedImage, Refused, Source, load_pixels, name_of
from dlcv.runtime.machine.closing import Closing
from dlcv.runtime.machine.system import cpu_count
from dlcv.runtime.results import Result
from dlcv.runtime.running.pipeline import batches_by_shape, in_background, ordered_map, windows
from dlcv.runtime.running.tasks import Answered, LoadRequest, TaskOptions, parts_of_task

Answer = TypeVar("Answer")
_WINDOW_BATCHES = 4  # how far images of other shapes may be passed over to fill a batch


def load(
    bundle: str | Path | Bundle,
    *,
    engine: str = "auto",
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    options: EngineOptions | None = None,
    longest_side: int | None = None,
    search: TaskOptions | None = None,
) -> Predictor:
    """Open a bundle (a folder, or a built-in bundle's name) and load it on an engine.

    outputs: names of the wanted outputs, such as ("mask",); what only others need is not computed.
    options: threads, batch size and the engine's own settings; None lets a tuning choose, where there is one.
    longest_side: run a graph of dynamic size at another scale than the manifest's, in pixels.
    search: how a captioner finds its words; None: greedily.

    Raises:
        BundleError: the bundle is malformed or lacks what was asked for.
        InputError: an option does not fit, or the tokenizers library is missing for a captioner.
        EngineUnavailableError: the engine is unknown, not installed, or cannot start here.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    preprocessing = scaled(opened, longest_side)
    choice = choose(opened, engine, precision=precision, options=options or EngineOptions())
    request = LoadRequest(
        bundle=opened,
        choice=choice,
        outputs=outputs,
        largest=preprocessing.size,
        options=search,
    )
    return Predictor(
        opened,
        parts_of_task(opened.manifest.task).engine(request),
        batch_size=choice.options.batch_size or DEFAULT_BATCH_SIZE,
        preprocessing=preprocessing,
        variant=choice.precision,
    )


@final
class Predictor(Closing):
    """Answers images with results. Not thread-safe: one call or stream at a time."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        preprocessing: Preprocessing | None = None,
        workers: int | None = None,
        variant: Precision | None = None,
    ) -> None:
        """Wrap a loaded engine.

        batch_size: images in one engine call at most. workers: decoding threads; None: one a core.
        variant: whose graph the engine was given; None: the default one's.
        """
        if batch_size < 1:
            raise InputError(f"batch size must be 1 or more, not {batch_size}")
        self.bundle = bundle
        self.engine = engine
        self.batch_size = batch_size
        self.preprocessing = preprocessing or bundle.manifest.preprocessing
        self.workers = workers or cpu_count()
        self.variant: Precision = variant or bundle.graph().default_precision
        self._result = parts_of_task(bundle.manifest.task).result(bundle)

    def __call__(self, images: Source | Iterable[Source]) -> list[Result]:
        """Return the result of every image, in order. One image may be given without a list.

        images: paths, URLs, bytes of files, PIL images, or uint8 arrays (H, W, 3) RGB.

        Raises:
            ImageError: an image cannot be read; `stream` skips and reports such images instead.
        """
        return none_refused(self.stream(listed(images)))

    def stream(self, sources: Iterable[Source | Refused]) -> Iterator[Result | Refused]:
        """Yield a result for every source, in order; memory does not depend on their number.

        An image that cannot be read gives a `Refused`; one that comes in is passed through.
        """
        window = self.batch_size * (_WINDOW_BATCHES if self._has_dynamic_size() else 1)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="dlcv-decode") as pool:
            decoded = ordered_map(self._decode, sources, pool=pool, limit=2 * window + self.workers)
            answers = (self._answer(items) for items in windows(decoded, window))
            for results in in_background(answers, depth=1):
                yield from results

    def run(self, pixels: np.ndarray[Any, Any]) -> Arrays:
        """Run the graph on pixels of the graph's size, uint8 (batch, H, W, 3), and return arrays."""
        return self.engine.infer({"image": np.ascontiguousarray(pixels)})

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
            "device": info.device,
            "precision": info.precision,
            "variant": self.variant,
            "resize": self.preprocessing.resize,
            "input_size": list(self.preprocessing.size),
            "embedding_width": widths.get("embedding"),
        }

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def _has_dynamic_size(self) -> bool:
        return isinstance(self.engine.inputs[0].shape[1], str)

    def _decode(self, source: Source | Refused) -> _Decoded | Refused:
        if isinstance(source, Refused):
            return source
        try:
            return _Decoded(source=source, image=load_pixels(source, self.preprocessing))
        except ImageError as e:
            return Refused(
                source=source if isinstance(source, (str, Path)) else name_of(source), reason=str(e)
            )

    def _answer(self, items: list[_Decoded | Refused]) -> list[Result | Refused]:
        answers: list[Result | Refused | None] = [
            item if isinstance(item, Refused) else None for item in items
        ]
        for positions in batches_by_shape(items, _shape, size=self.batch_size):
            batch = [item for p in positions if isinstance(item := items[p], _Decoded)]
            results = self.results([i.image for i in batch], sources=[i.source for i in batch])
            for position, result in zip(positions, results, strict=True):
                answers[position] = result
        return [answer for answer in answers if answer is not None]


def listed(images: Source | Iterable[Source]) -> Iterable[Source]:
    """Return images as they come; one image that was given without a list, in one."""
    if isinstance(images, (str, Path, bytes, np.ndarray, Image.Image)):
        return [images]
    return images


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


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    source: Source
    image: DecodedImage


def _shape(item: _Decoded | Refused) -> tuple[int, ...] | None:
    return item.image.pixels.shape if isinstance(item, _Decoded) else None


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
