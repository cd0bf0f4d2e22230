"""`dlcv-infer tune`: measures every way to run a bundle on this machine, and stores the best.

Every combination of engine, precision and settings first replays the golden cases; failures are dropped. Lower precisions,
of a graph or of an engine's arithmetic, must be proved besides (`lower.py`). The others are timed together with plain ONNX
Runtime: first all of them briefly, in groups that fit into memory, then the fastest few for longer. An engine for GPUs, which may
be compiled for shapes, is then loaded once for the largest batch, and in the last rounds for each batch alone. For throughput, these are also timed while a thread decodes photos, as when a
folder of images is processed; an engine that is fast alone may be slow there. The lower of the two ratios
decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import product

import msgspec

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import (
    EngineOptions,
    engine_entry,
    engine_model,
    engine_names,
    engine_versions,
    load_engine,
    why_unavailable,
)
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE, Engine
from dlcv.runtime.engines.tuned import Goal, Row, Tuning, store_tuning, tuning_key
from dlcv.runtime.errors import DlcvError, EngineUnavailableError, InputError
from dlcv.runtime.machine.system import cpu_count, has_bf16, is_importable
from dlcv.runtime.measure.configurations import (
    Configuration,
    Kind,
    by_load,
    ratio_of,
    rows_of,
    scores_of,
    unsteadiness,
)
from dlcv.runtime.measure.lower import LowerGate, LowerOptions
from dlcv.runtime.measure.parity import replay_golden
from dlcv.runtime.measure.plain_onnxruntime import PLAIN, PlainOrt, plain_precision
from dlcv.runtime.measure.timing import (
    Subject,
    interleaved,
    subject_from_call,
    subject_from_engine,
)
from dlcv.runtime.measure.workload import decoding, feeds_of, image_size
from dlcv.runtime.running.pipeline import windows

_BATCHES: dict[Goal, tuple[int, ...]] = {"throughput": (1, 8, 32), "latency": (1,)}
_GPU_BATCHES: dict[Goal, tuple[int, ...]] = {
    "throughput": (1, 8, 32, 64, 128, 256),
    "latency": (1,),
}
_LOADED_AT_ONCE = 8
_LOADED_ON_GPU = 2  # its memory is smaller, and the largest batch may fill it
_FINALISTS = 4
_SCREENING_SHARE = 0.5
_LONGEST_CALL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """What to tune.

    None means every available engine, every precision of the bundle, the batch sizes that suit the goal and the engine, or
    all cores and half of them. seconds: timing budget, without loading and parity. size: longer side of the images in pixels,
    for a graph of dynamic size. lower: what decides whether lower precisions may run. on_progress: called with words, and the share done in 0..1 or None.
    """

    goal: Goal = "throughput"
    engines: tuple[str, ...] | None = None
    precisions: tuple[Precision, ...] | None = None
    batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    seconds: float = 30.0
    size: int | None = None
    lower: LowerOptions = field(default_factory=LowerOptions)
    on_progress: Callable[[str, float | None], None] = field(default=lambda *_: None)


def tune(bundle: Bundle, request: TuneRequest | None = None) -> Tuning:
    """Measure all configurations, store the tuning in the cache, and return it.

    Raises:
        InputError: the bundle has no golden cases, or nothing was left to be measured.
        EngineUnavailableError: an engine that was named is unknown or cannot run here.
        BundleError: the bundle lacks a precision.
        OutputError: the cache cannot be written.
    """
    bundle.require_one_graph("a tuning")
    request = request or TuneRequest()
    if not bundle.manifest.golden:
        raise InputError(
            f"bundle {bundle.manifest.name!r} has no golden cases, so no engine's answers could be "
            "checked; export it again"
        )
    run = _Run(bundle, request)
    candidates = run.candidates()
    screened = run.screen(candidates)
    tuning = run.finish(screened)
    if not tuning.rows:
        raise InputError(f"nothing could be measured: {'; '.join(tuning.dropped)}")
    if not tuning.unsteady:
        store_tuning(tuning_key(bundle, engine_versions()), tuning)
    return tuning


class _Run:
    """A running tuning: what was measured, and what was dropped."""

    def __init__(self, bundle: Bundle, request: TuneRequest) -> None:
        self.bundle = bundle
        self.request = request
        self.dropped: list[str] = []
        self.size = image_size(bundle, request.size)
        self.channels = bundle.manifest.preprocessing.channels
        self.outputs = (bundle.graph().outputs[0].name,)
        self.plain_precision: Precision = plain_precision(bundle)
        self.seconds: dict[str, float] = {}  # an image, about, by engine
        self.plain: list[Configuration] = []
        self.proofs: dict[Kind, str] = {}

    def candidates(self) -> list[Configuration]:
        """Return every configuration that can be loaded and passes parity."""
        request = self.request
        precisions = request.precisions or self.bundle.graph().precisions
        for precision in precisions:
            self.bundle.variant(precision)
        passed: list[tuple[str, Precision, Mapping[str, str]]] = [
            (engine, precision, settings)
            for engine, precision in product(self._engines(), precisions)
            for settings in self._variations(engine, precision)
            if self._passes(engine, precision, settings)
        ]
        if passed and is_importable("onnxruntime"):
            self.plain = self._plain_configurations()
        batches = {engine: self._batches(engine) for engine in dict.fromkeys(p[0] for p in passed)}
        cores = cpu_count()
        threads = request.threads or tuple(dict.fromkeys((cores, max(1, cores // 2))))
        return [
            Configuration(engine, precision, count, tuple(settings.items()), batch)
            for engine, precision, settings in passed
            for count in ((None,) if engine_entry(engine).needs_gpu else threads)
            for batch in batches[engine]
        ]

    def screen(self, candidates: Sequence[Configuration]) -> dict[Configuration, Row]:
        """Time all configurations briefly, in groups with plain ONNX Runtime in each. Return them best first."""
        loads = by_load(candidates)
        groups = [
            *windows([load for load in loads if not load[0].is_on_gpu], _LOADED_AT_ONCE),
            *windows([load for load in loads if load[0].is_on_gpu], _LOADED_ON_GPU),
        ]
        scores: dict[Configuration, float] = {}
        rows: dict[Configuration, Row] = {}
        for number, group in enumerate(groups):
            words = f"timing {len(candidates)} candidates"
            seconds = self.request.seconds * _SCREENING_SHARE / len(groups)
            with self._subjects([*by_load(self.plain), *group]) as subjects:
                timings = interleaved(
                    subjects,
                    seconds=seconds,
                    least_rounds=2,
                    on_round=partial(self._tell, words, number / len(groups), 1 / len(groups)),
                )
            scores |= scores_of(timings)
            rows |= self._proved(rows_of(timings))
        order = sorted((c for c in rows if c.engine != PLAIN), key=lambda c: -scores[c])
        return {c: rows[c] for c in order}

    def finish(self, screened: Mapping[Configuration, Row]) -> Tuning:
        """Time the fastest configurations again for longer, and return the ranking."""
        finalists = self._finalists(list(screened))
        loaded = self.request.goal == "throughput"
        seconds = self.request.seconds * (1 - _SCREENING_SHARE) / (2 if loaded else 1)
        words = f"timing the fastest {len(finalists)} again"
        with self._subjects([*by_load(self.plain), *by_load(finalists, apart=True)]) as subjects:
            alone = interleaved(
                subjects, seconds=seconds, on_round=partial(self._tell, words, 0.0, 0.5)
            )
            with decoding() if loaded else nullcontext():
                beside = (
                    interleaved(
                        subjects, seconds=seconds, on_round=partial(self._tell, words, 0.5, 0.5)
                    )
                    if loaded
                    else alone
                )
        quiet, busy, rows = scores_of(alone), scores_of(beside), self._proved(rows_of(alone))
        ran = [c for c in finalists if c in rows]
        order = sorted(ran, key=lambda c: -min(quiet[c], busy[c]))
        best = [
            msgspec.structs.replace(
                rows[c], final=True, busy_ratio=ratio_of(beside, c) if loaded else None
            )
            for c in order
        ]
        return Tuning(
            goal=self.request.goal,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            size=self.size,
            rows=(*best, *(row for c, row in screened.items() if c not in finalists)),
            plain=tuple(row for c, row in rows.items() if c.engine == PLAIN),
            dropped=tuple(dict.fromkeys(self.dropped)),
            unsteady=unsteadiness(alone, order),
        )

    def _proved(self, rows: dict[Configuration, Row]) -> dict[Configuration, Row]:
        """Add what proves each row's precision."""
        return {
            c: msgspec.structs.replace(row, proof=self.proofs.get(c.kind, ""))
            for c, row in rows.items()
        }

    def _finalists(self, ranked: list[Configuration]) -> list[Configuration]:
        """Return the best rows, and one equivalent to plain ONNX Runtime.

        The choice is therefore never slower than plain ONNX Runtime.
        """
        alike = [
            c
            for c in ranked
            if dict(c.settings) == engine_entry(c.engine).like_plain
            and (c.precision, c.threads) == (self.plain_precision, cpu_count())
        ]
        return list(dict.fromkeys(ranked[:_FINALISTS] + alike[:1]))

    def _tell(self, words: str, start: float, part: float, share: float) -> None:
        self.request.on_progress(words, start + part * share)

    def _engines(self) -> list[str]:
        """Return the engines to measure. Named engines must be available; of the others, missing ones are noted."""
        for name in self.request.engines or ():
            if reason := why_unavailable(name):
                raise EngineUnavailableError(reason)
        if self.request.engines:
            return list(dict.fromkeys(self.request.engines))
        self.dropped += [reason for n in engine_names() if (reason := why_unavailable(n))]
        return self._available

    @cached_property
    def _available(self) -> list[str]:
        return [name for name in engine_names() if why_unavailable(name) is None]

    def _variations(self, engine: str, precision: Precision) -> Iterator[Mapping[str, str]]:
        """Yield the engine's settings to try with a precision: lower arithmetic too, where this CPU has it."""
        entry = engine_entry(engine)
        yield from entry.variations
        if precision == self.bundle.graph().default_precision and has_bf16():
            for lower, settings in product(entry.lower_arithmetic, entry.variations):
                yield {**settings, **lower}

    def _passes(self, engine: str, precision: Precision, settings: Mapping[str, str]) -> bool:
        """Check the answers of a configuration; what fails is dropped with the reason."""
        what = Configuration(engine, precision, None, tuple(settings.items()), 0)
        self.request.on_progress(f"checking {what}", None)
        is_lowered = any(
            lower.items() <= settings.items() for lower in engine_entry(engine).lower_arithmetic
        )
        try:
            failure = "" if is_lowered else self._golden_failure(engine, precision, settings)
            if not failure and (is_lowered or precision != self.bundle.graph().default_precision):
                passes, words = self._gate.verdict(engine, precision, settings)
                self.proofs[what.kind] = words
                failure = "" if passes else f"not within the budget: {words}"
        except DlcvError as e:
            failure = str(e)
        if failure:
            self.dropped.append(f"{what}: {failure}")
        return not failure

    def _golden_failure(
        self, engine: str, precision: Precision, settings: Mapping[str, str]
    ) -> str:
        """Replay the golden cases on the whole graph, because `auto` also serves commands that need other outputs."""
        options = EngineOptions(settings=settings, on_progress=self.request.on_progress)
        with load_engine(self.bundle, engine, precision=precision, options=options) as loaded:
            failure = next(iter(replay_golden(self.bundle, loaded).failures), "")
            if not failure and engine not in self.seconds:
                self.seconds[engine] = self._seconds_an_image(engine, loaded)
        return failure

    @cached_property
    def _gate(self) -> LowerGate:
        full = next((n for n in ("ort", *self._available) if n in self._available), "ort")
        return LowerGate(self.bundle, self.request.lower, engine=full)

    def _seconds_an_image(self, engine: str, loaded: Engine) -> float:
        """Return about how long an engine takes for an image; 0 where that cannot be told."""
        batch = DEFAULT_BATCH_SIZE if engine_entry(engine).needs_gpu else 1
        size = self.bundle.manifest.preprocessing.size  # that it was loaded for
        feeds = feeds_of(batch, size, channels=self.channels)
        try:
            one = subject_from_call(partial(loaded.infer, feeds)).estimate / batch
        except DlcvError:  # a batch that does not fit is left out when it is timed
            return 0.0
        return one * math.prod(self.size) / math.prod(size)

    def _batches(self, engine: str) -> list[int]:
        """Return the batch sizes to time on an engine: the smallest, and those whose calls do not take too long."""
        usual = _GPU_BATCHES if engine_entry(engine).needs_gpu else _BATCHES
        smallest, *others = sorted(set(self.request.batches or usual[self.request.goal]))
        takes = {batch: batch * self.seconds.get(engine, 0.0) for batch in others}
        self.dropped += [
            f"{engine}, batch {batch}: a call takes about {seconds:.1f} s, too long to tune"
            for batch, seconds in takes.items()
            if seconds > _LONGEST_CALL_SECONDS
        ]
        return [smallest, *(b for b, s in takes.items() if s <= _LONGEST_CALL_SECONDS)]

    def _plain_configurations(self) -> list[Configuration]:
        """Return plain ONNX Runtime at the batch sizes of CPUs whose calls do not take too long."""
        smallest, *others = sorted(set(self.request.batches or _BATCHES[self.request.goal]))
        plain = Configuration(PLAIN, self.plain_precision, None, (), smallest)
        with self._load(plain) as loaded:
            feeds = feeds_of(1, self.size, channels=self.channels)
            one = subject_from_call(partial(loaded.infer, feeds)).estimate
        fitting = (batch for batch in others if one * batch <= _LONGEST_CALL_SECONDS)
        return [plain, *(replace(plain, batch=batch) for batch in fitting)]

    @contextmanager
    def _subjects(
        self, loads: Iterable[Sequence[Configuration]]
    ) -> Iterator[dict[Configuration, Subject]]:
        """Load an engine for each of `loads`, and warm up all of its batches."""
        with ExitStack() as stack:
            subjects: dict[Configuration, Subject] = {}
            for load in loads:
                subjects |= self._warmed_up(list(load), stack)
            yield subjects

    def _warmed_up(
        self, load: list[Configuration], stack: ExitStack
    ) -> dict[Configuration, Subject]:
        """Load an engine for the largest batch that fits, and return its batches that run. The others are dropped, with the reason."""
        subjects: dict[Configuration, Subject] = {}
        engine: Engine | None = None
        while load and engine is None:
            try:
                engine = stack.enter_context(self._load(load[-1]))
            except DlcvError as e:
                self._drop(load.pop(), e)
        for configuration in load:
            assert engine is not None
            try:
                subjects[configuration] = self._subject(engine, configuration.batch)
            except DlcvError as e:
                self._drop(configuration, e)
        return subjects

    def _subject(self, engine: Engine, batch: int) -> Subject:
        feeds = feeds_of(batch, self.size, channels=self.channels)
        if self.request.goal == "throughput":
            return subject_from_engine(engine, feeds)
        return subject_from_call(partial(engine.infer, feeds))

    def _drop(self, configuration: Configuration, reason: DlcvError) -> None:
        self.dropped.append(f"{configuration}, batch {configuration.batch}: {reason}")

    def _load(self, configuration: Configuration) -> Engine:
        if configuration.engine == PLAIN:
            return PlainOrt(
                engine_model(self.bundle, precision=configuration.precision, outputs=self.outputs)
            )
        threads = configuration.threads
        options = EngineOptions(
            threads=None
            if threads == cpu_count()
            else threads,  # every core: leave the choice to the engine
            batch_size=configuration.batch,
            settings=dict(configuration.settings),
            on_progress=self.request.on_progress,
        )
        return load_engine(
            self.bundle,
            configuration.engine,
            precision=configuration.precision,
            outputs=self.outputs,
            options=options,
            largest=self.size,
        )
