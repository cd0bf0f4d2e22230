"""`dlcv-infer bench`: measures a bundle's speed on this machine at three levels.

`engine`: arrays in, arrays out, nothing around it; on a GPU the device's own work, timed by its events.
`host`: decoded pixels in memory to result objects: stack, copy, infer, results.
`file`: image files to result files, the whole job with decoding and writing.

All engines and baselines take turns in the same run, on the same photos. Each is timed for its share of the seconds, with as
many images as it manages in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import msgspec
import numpy as np

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import (
    EngineOptions,
    choose,
    engine_entry,
    engine_model,
    engine_names,
    engine_versions,
    load_engine,
    why_unavailable,
)
from dlcv.runtime.errors import DlcvError, EngineUnavailableError, ImageError, InputError
from dlcv.runtime.images import DecodedImage, load_pixels
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.images.sources import NamedImage, expand_inputs
from dlcv.runtime.machine.system import cpu_count, is_importable, machine_name
from dlcv.runtime.measure.plain_onnxruntime import PLAIN, PlainOrt, plain_precision
from dlcv.runtime.measure.timing import (
    WARM_UPS,
    Subject,
    Timing,
    interleaved,
    subject_from_call,
    subject_from_timer,
)
from dlcv.runtime.measure.whole_jobs import WholeJobs
from dlcv.runtime.results import WriteOptions
from dlcv.runtime.running.predictor import Predictor, scaled

if TYPE_CHECKING:
    from dlcv.runtime.engines.base import DeviceTimer, Engine

FigureName: TypeAlias = Literal["engine", "host", "file"]
FIGURES: tuple[FigureName, ...] = ("engine", "host", "file")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_LONGEST_CALL_SECONDS = 5.0
_PHOTOS = 64
_LEAST_FILES = 16  # of a job; two batches at least, so that its stages can overlap
_JOBS = 3  # that fit into the time of each


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An engine or baseline in a benchmark. open: loads it. on_device: it is also a `DeviceTimer`."""

    label: str
    open: Callable[[], Engine]
    on_device: bool = False


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure.

    engines: None means all available ones. seconds: timing budget for each figure and batch size, all
    contestants together; a job of the figure `file` has as many photos as fill a third of its share. images: a folder
    of photos instead of dlcv's own. size: longer side in pixels. baselines: what runs beside the engines and plain ONNX Runtime.
    """

    engines: tuple[str, ...] | None = None
    precision: Precision | None = None
    batches: tuple[int, ...] = BATCHES
    threads: int | None = None
    seconds: float = 3.0
    images: Path | None = None
    size: int | None = None
    baselines: tuple[Contestant, ...] = ()
    on_progress: Callable[[str, float | None], None] = field(default=lambda *_: None)


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement.

    A call processes `images` images: a batch, or of the figure `file` more, the faster the contestant. Times are in ms:
    percentiles and quartiles of `calls` calls. ratio: images/s relative to plain ONNX Runtime in the same rounds.
    """

    figure: FigureName
    label: str
    batch: int
    images: int
    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    quartiles_ms: tuple[float, float]
    images_per_second: float
    ratio: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole benchmark, as in bench.json.

    contestants: what really ran, by label. created: ISO 8601, UTC. inputs: shape of one image, (H, W).
    failures: one sentence for each thing that did not run.
    """

    bundle: str
    bundle_sha256: str
    created: str
    machine: str
    versions: dict[str, str]
    threads: int
    warm_ups: int
    outputs: tuple[str, ...]
    size: tuple[int, int]
    contestants: dict[str, str]
    figures: tuple[Figure, ...]
    failures: tuple[str, ...]


def bench(bundle: Bundle, request: BenchRequest | None = None) -> Report:
    """Measure all three figures of every engine and baseline, at every batch size.

    A failure becomes a sentence in the report, and the others continue.

    Raises:
        InputError: no photos, or a size that the bundle cannot take.
        EngineUnavailableError: an engine that was named is unknown, or nothing could run.
        BundleError: the bundle lacks the precision.
    """
    bundle.require_one_graph("a benchmark")
    request = request or BenchRequest()
    with ExitStack() as stack:
        run = _Run(bundle, request, stack=stack)
        if not run.predictors:
            raise EngineUnavailableError(f"nothing could run: {'; '.join(run.failures)}")
        batches = sorted(set(request.batches))
        for number, batch in enumerate(batches):
            for step, figure in enumerate(FIGURES):
                share = (number + step / len(FIGURES)) / len(batches)
                request.on_progress("measuring", share)
                run.measure(figure, batch)
        return run.report()


class _Run:
    """A running benchmark."""

    def __init__(self, bundle: Bundle, request: BenchRequest, *, stack: ExitStack) -> None:
        self.bundle = bundle
        self.request = request
        self.failures: list[str] = []
        self.figures: list[Figure] = []
        self.precision: Precision = request.precision or bundle.graph().default_precision
        bundle.variant(self.precision)
        self.outputs = (bundle.graph().outputs[0].name,)
        self.paths, self.decoded = _photos(bundle, request)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dlcv-bench-")))
        self.on_device = {c.label for c in self.contestants() if c.on_device}
        self.predictors: dict[str, Predictor] = {}
        for contestant in self.contestants():
            self._open(contestant, stack)
        self.ran = {label: str(p.engine.info) for label, p in self.predictors.items()}

    def contestants(self) -> list[Contestant]:
        """Return plain ONNX Runtime, the baselines, and the engines."""
        available = (name for name in engine_names() if why_unavailable(name) is None)
        names = self.request.engines or tuple(available)
        plain = [Contestant(label=PLAIN, open=self._plain)] if is_importable("onnxruntime") else []
        engines = [
            Contestant(
                label=f"{name} {self.precision}",
                open=partial(self._engine, name),
                on_device=engine_entry(name).needs_gpu,
            )
            for name in names
        ]
        return [*plain, *self.request.baselines, *engines]

    def measure(self, figure: FigureName, batch: int) -> None:
        """Measure one figure of every contestant that still runs."""
        subjects: dict[str, Subject] = {}
        images: dict[str, int] = {}
        for label, predictor in list(self.predictors.items()):
            try:
                if (seconds := self._would_take(figure, label, batch)) <= _LONGEST_CALL_SECONDS:
                    subjects[label], images[label] = self._subject(figure, label, predictor, batch)
                else:
                    self.failures.append(
                        f"{label}, batch {batch}: left out of {figure!r}, it would take {seconds:.0f} s"
                    )
            except DlcvError as e:
                self.failures.append(f"{label}, batch {batch}: {e}")
                del self.predictors[label]
        timings = interleaved(subjects, seconds=self.request.seconds)
        self.figures += [
            _figure(figure, label, batch=batch, timings=timings, images=images) for label in timings
        ]

    def report(self) -> Report:
        """Return the results, with the machine and settings."""
        import dlcv

        return Report(
            bundle=self.bundle.manifest.name,
            bundle_sha256=self.bundle.sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine_name(),
            versions={"dlcv": dlcv.__version__, "numpy": np.__version__, **engine_versions()},
            threads=self.request.threads or cpu_count(),
            warm_ups=WARM_UPS,
            outputs=self.outputs,
            size=cast("tuple[int, int]", self.decoded[0].pixels.shape[:2]),
            contestants=self.ran,
            figures=tuple(self.figures),
            failures=tuple(self.failures),
        )

    def _open(self, contestant: Contestant, stack: ExitStack) -> None:
        self.request.on_progress(f"loading {contestant.label}", None)
        try:
            engine = contestant.open()
        except DlcvError as e:
            self.failures.append(f"{contestant.label}: {e}")
            return
        predictor = Predictor(
            self.bundle,
            engine,
            batch_size=max(self.request.batches),
            preprocessing=scaled(self.bundle, self.request.size),
        )
        self.predictors[contestant.label] = stack.enter_context(predictor)

    def _plain(self) -> Engine:
        precision = plain_precision(self.bundle)
        return PlainOrt(engine_model(self.bundle, precision=precision, outputs=self.outputs))

    def _engine(self, name: str) -> Engine:
        options = EngineOptions(
            threads=self.request.threads,
            batch_size=max(self.request.batches),
            on_progress=self.request.on_progress,
        )
        choice = choose(self.bundle, name, precision=self.precision, options=options)
        return load_engine(
            self.bundle,
            choice.engine,
            precision=choice.precision,
            outputs=self.outputs,
            options=choice.options,
            largest=scaled(self.bundle, self.request.size).size,
        )

    def _would_take(self, figure: FigureName, label: str, batch: int) -> float:
        """Return the expected seconds of a call, extrapolated from a smaller batch; 0 if nothing is known."""
        known = [f for f in self.figures if (f.figure, f.label) == (figure, label)]
        return _least_images(figure, batch) / known[-1].images_per_second if known else 0.0

    def _subject(
        self, figure: FigureName, label: str, predictor: Predictor, batch: int
    ) -> tuple[Subject, int]:
        """Return what is timed, warmed up, and the images of a call of it."""
        if figure == "file":
            return self._jobs(predictor, batch)
        decoded = list(islice(cycle(self.decoded), batch))
        feeds = {"image": np.stack([image.pixels for image in decoded])}
        if figure == "engine" and label in self.on_device:
            timer = cast("DeviceTimer", predictor.engine)
            subject = predictor.call(lambda: subject_from_timer(timer, feeds))
            return subject.within(predictor.call), batch
        if figure == "engine":
            infer = partial(predictor.engine.infer, feeds)
            return predictor.call(lambda: subject_from_call(infer)).within(predictor.call), batch
        sources = ["memory"] * batch
        return subject_from_call(partial(predictor.results, decoded, sources=sources)), batch

    def _jobs(self, predictor: Predictor, batch: int) -> tuple[Subject, int]:
        predictor.batch_size = batch
        jobs = WholeJobs(
            predictor=predictor,
            photos=self.paths,
            folder=self.folder,
            write=WriteOptions(masks=self.bundle.manifest.task == "segment"),
        )
        share = self.request.seconds / len(self.predictors)
        return jobs.subject(least=_least_images("file", batch), seconds=share / _JOBS)


def _photos(bundle: Bundle, request: BenchRequest) -> tuple[list[str], list[DecodedImage]]:
    """Return the paths of readable photos, and the decoded photos that share the most frequent shape."""
    preprocessing = scaled(bundle, request.size)
    inputs = [str(request.images)] if request.images else [str(path) for path in sample_paths()]
    decoded: dict[str, DecodedImage] = {}
    for item in islice(expand_inputs(inputs), _PHOTOS):
        if isinstance(item, NamedImage):
            try:
                decoded[item.path] = load_pixels(item.path, preprocessing)
            except ImageError:
                continue  # a benchmark needs some photos, not all
    if not decoded:
        raise InputError(f"no image can be read from {request.images}; give a folder of photos")
    shapes = [image.pixels.shape for image in decoded.values()]
    usual = max(shapes, key=shapes.count)
    return list(decoded), [image for image in decoded.values() if image.pixels.shape == usual]


def _least_images(figure: FigureName, batch: int) -> int:
    """Return the least number of images of one call."""
    return max(2 * batch, _LEAST_FILES) if figure == "file" else batch


def _figure(
    figure: FigureName,
    label: str,
    *,
    batch: int,
    timings: Mapping[str, Timing],
    images: Mapping[str, int],
) -> Figure:
    """Return one contestant's figure. timings, images: of all, by label."""
    timing, plain = timings[label], timings.get(PLAIN)
    p50, p90, p99, low, high = (1e3 * timing.quantile(q) for q in (0.5, 0.9, 0.99, 0.25, 0.75))
    return Figure(
        figure=figure,
        label=label,
        batch=batch,
        images=images[label],
        calls=timing.calls,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        quartiles_ms=(low, high),
        images_per_second=images[label] / timing.median,
        ratio=None if plain is None else timing.speed_over(plain) * images[label] / images[PLAIN],
    )
