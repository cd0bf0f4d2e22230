"""What `auto` takes on a CPU where nothing was tuned: the fastest of what the bundle proves, measured once.

The candidates are the engines for CPUs that are installed, each in the bundle's own precision and in the lower ones that are
proved: those whose recorded score is at most half a point below the bundle's own. They are timed in turns for about a
second and a half; the winner is kept in the cache until the machine, a version or the bundle changes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import TypeAlias

import msgspec
import numpy as np

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Deployed, Precision, Variant
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE, LARGE_IMAGE, Engine, EngineOptions
from dlcv.runtime.engines.loading import Choice, load_chosen
from dlcv.runtime.engines.registry import ENGINES, engine_entry, why_unavailable
from dlcv.runtime.errors import DlcvError, OutputError
from dlcv.runtime.machine.cache import CacheKey, lookup, store
from dlcv.runtime.machine.system import cpu_count, has_bf16, installed_version, machine_name

BUDGET = 0.005
"""How far a lower precision's recorded score may lie below the bundle's own: half a point."""
LEAST_IMAGES = 50
"""On fewer labelled images a score proves nothing."""

Pixels: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"

_CPU_ENGINES = ("ort", "openvino")  # the first is what the others are compared with
_LOAD_SECONDS = 0.9  # for loading: what is not loaded by then is not tried
_RACE_SECONDS = 0.35  # for each of two: between candidates, between batch sizes of the winner
_MARGIN = 1.05  # so much faster must be what replaces the simpler one
_STEADY = (
    1.5  # upper quartile over lower: beyond it something else ran; the next use measures again
)


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to run a bundle. settings: of the engine. batch: images in one call, where that was measured."""

    engine: str
    precision: Precision
    settings: dict[str, str]
    batch: int | None = None


def first_use(
    bundle: Bundle,
    *,
    precision: Precision | None,
    options: EngineOptions,
    outputs: Collection[str] | None = None,
) -> Candidate | None:
    """Return the fastest way to run a bundle on this CPU within what the caller fixed; None where no engine is installed.

    outputs: names of the wanted ones; a lower precision is proved for the output that is scored, and not tried without it.
    """
    candidates = _candidates(bundle, precision, options, outputs)
    if len(candidates) < 2:
        return next(iter(candidates), None)
    key = _key(bundle, candidates, options)
    if (kept := _stored(key)) is not None:
        return kept
    fastest, is_steady = _measured(bundle, candidates, options)
    if is_steady:
        try:
            store(key, msgspec.json.encode(fastest))
        except OutputError as e:
            options.on_progress(
                f"what is fastest is found out anew each time, because dlcv {e}", None
            )
    return fastest


def proof_of(bundle: Bundle, precision: Precision, arithmetic: Precision) -> str:
    """Return the recorded scores that prove a precision and its arithmetic, in brackets; nothing where there are none."""
    if precision not in bundle.graph().precisions:
        return ""
    scores = _scores(bundle.variant(precision), bundle.variant(), arithmetic)
    if scores is None:
        return ""
    metric, value, baseline, images = scores
    return f" ({metric} {value:.3f} against {baseline:.3f} on {images:,} images)"


def is_proved(bundle: Bundle, precision: Precision, arithmetic: Precision) -> bool:
    """Return whether a bundle's records prove a precision of its graph and of its arithmetic within the budget."""
    if precision == arithmetic == bundle.graph().default_precision:
        return True
    scores = _scores(bundle.variant(precision), bundle.variant(), arithmetic)
    if scores is None:
        return False
    _, value, baseline, images = scores
    return images >= LEAST_IMAGES and value >= baseline - BUDGET - 1e-9


def has_proved_half(bundle: Bundle, outputs: Collection[str] | None) -> bool:
    """Return whether a bundle has an fp16 graph that is proved for the outputs that are wanted."""
    is_scored = outputs is None or _main_output(bundle) in outputs
    has_half = "fp16" in bundle.graph().precisions[1:]
    return has_half and is_scored and is_proved(bundle, "fp16", "fp16")


def _scores(
    variant: Variant, default: Variant, arithmetic: Precision
) -> tuple[str, float, float, int] | None:
    """Return metric, score, the default variant's score and the number of images; None where nothing is recorded.

    Of several engines' scores on the same data, the lowest is taken, and of the default variant's the highest.
    """
    if variant.accuracy is not None and variant is not default:
        kept = variant.accuracy
        return kept.metric, kept.value, kept.baseline, kept.images
    own = [d for d in variant.deployed if d.precision == arithmetic]
    for lowest in sorted(own, key=lambda d: d.value):
        if baselines := [d.value for d in default.deployed if _is_like(d, lowest)]:
            return lowest.metric, lowest.value, max(baselines), lowest.images
    return None


def _is_like(default: Deployed, other: Deployed) -> bool:
    same = (default.metric, default.data, default.images) == (
        other.metric,
        other.data,
        other.images,
    )
    return same and default.precision == "fp32"


def _candidates(
    bundle: Bundle,
    precision: Precision | None,
    options: EngineOptions,
    outputs: Collection[str] | None,
) -> list[Candidate]:
    """Return what may run: the baseline, the lower precisions, the other engines. There may be no time to load the last."""
    installed = [name for name in _CPU_ENGINES if why_unavailable(name) is None]
    chosen = precision or bundle.graph().default_precision
    full = [
        Candidate(engine=name, precision=chosen, settings=dict(options.settings))
        for name in installed
    ]
    is_scored = outputs is None or _main_output(bundle) in outputs
    may_be_lower = precision is None and is_scored
    names = reversed(installed) if may_be_lower else ()
    lower = [found for name in names for found in _lower(bundle, name, options.settings)]
    return [*full[:1], *lower, *full[1:]]


def _lower(bundle: Bundle, engine: str, settings: Mapping[str, str]) -> Iterator[Candidate]:
    """Yield an engine's lower precisions that the bundle proves."""
    target = engine_entry(engine).target
    graph = bundle.graph()
    for precision in graph.precisions[1:]:
        try:
            bundle.variant_name(precision, target=target)
        except DlcvError:  # it is made for another engine
            continue
        if is_proved(bundle, precision, precision):
            yield Candidate(engine=engine, precision=precision, settings=dict(settings))
    for lower in ENGINES[engine].lower_arithmetic:
        if has_bf16() and is_proved(bundle, graph.default_precision, "bf16"):
            yield Candidate(
                engine=engine, precision=graph.default_precision, settings={**settings, **lower}
            )


def _main_output(bundle: Bundle) -> str:
    """Return the output that is scored: the first of the contract, and so of the graph."""
    return bundle.graph().outputs[0].name


def _key(bundle: Bundle, candidates: list[Candidate], options: EngineOptions) -> CacheKey:
    packages = {c.engine: engine_entry(c.engine) for c in candidates}
    versions = {
        name: installed_version(entry.distribution or entry.modules[0]) or ""
        for name, entry in packages.items()
    }
    fields = {
        "machine": machine_name(),
        "candidates": "; ".join(f"{c.engine} {c.precision} {dict(c.settings)}" for c in candidates),
        "threads": str(options.threads or cpu_count()),
        "batch": str(options.batch_size),
    }
    return CacheKey(kind="first-use", subject=bundle.sha256, fields=fields | versions)


def _stored(key: CacheKey) -> Candidate | None:
    data = lookup(key).data
    try:
        return None if data is None else msgspec.json.decode(data, type=Candidate)
    except msgspec.MsgspecError:  # of another dlcv
        return None


def _measured(
    bundle: Bundle, candidates: list[Candidate], options: EngineOptions
) -> tuple[Candidate, bool]:
    """Return the fastest candidate, and whether its rounds were alike. Its batch size is measured after it won.

    Raises:
        DlcvError: none of them can be loaded; the first one's error.
    """
    quiet = replace(options, on_progress=lambda *_: None)
    with ExitStack() as stack:
        engines = _loaded(bundle, candidates, quiet, stack)
        batch = min(options.batch_size or 1, DEFAULT_BATCH_SIZE)
        images = _images(bundle, batch)
        able = {
            number: (engine, images) for number, engine in engines.items() if _runs(engine, images)
        }
        if not able:  # whoever runs it will hear why
            return candidates[0], False
        number, seconds, is_steady = _race(able)
        is_short = seconds * DEFAULT_BATCH_SIZE < _RACE_SECONDS / 2
        if options.batch_size is None and is_short and images[0, ..., 0].size <= LARGE_IMAGE:
            sizes = {
                size: (engines[number], _images(bundle, size)) for size in (1, DEFAULT_BATCH_SIZE)
            }
            batch, _, is_steady = _race(sizes)
    return msgspec.structs.replace(candidates[number], batch=batch), is_steady


def _loaded(
    bundle: Bundle, candidates: list[Candidate], options: EngineOptions, stack: ExitStack
) -> dict[int, Engine]:
    """Load the candidates, the first at least, by their numbers."""
    engines: dict[int, Engine] = {}
    errors: list[DlcvError] = []
    end = time.perf_counter() + _LOAD_SECONDS
    for number, candidate in enumerate(candidates):
        if engines and time.perf_counter() > end:
            break
        choice = Choice(
            engine=candidate.engine,
            precision=candidate.precision,
            options=replace(options, settings=candidate.settings),
        )
        try:
            engines[number] = stack.enter_context(
                load_chosen(bundle, choice, outputs=(_main_output(bundle),))
            )
        except DlcvError as e:
            errors.append(e)
    if not engines:
        raise errors[0]
    return engines


def _images(bundle: Bundle, batch: int) -> Pixels:
    """Return a batch of images to run, of noise."""
    height, width = bundle.manifest.preprocessing.size
    one = np.arange(height * width * bundle.manifest.preprocessing.channels, dtype=np.uint32)
    image = (one * 2_654_435_761 >> 24).astype(np.uint8).reshape(1, height, width, -1)
    return np.repeat(image, batch, axis=0)


def _runs(engine: Engine, images: Pixels) -> bool:
    try:
        engine.infer({"image": images})
    except DlcvError:
        return False
    return True


def _race(runners: Mapping[int, tuple[Engine, Pixels]]) -> tuple[int, float, bool]:
    """Let engines run their images in turns. Return the winner's key, its seconds a call, and whether these were alike.

    The winner is the first that nothing beats by the margin, in images a second.
    """
    times: dict[int, list[float]] = {key: [] for key in runners}
    for engine, images in runners.values():
        engine.infer({"image": images})  # the first call of a shape is a cold one
    end = time.perf_counter() + _RACE_SECONDS
    while time.perf_counter() < end or min(map(len, times.values())) < 2:
        for key, (engine, images) in runners.items():
            start = time.perf_counter()
            engine.infer({"image": images})
            times[key].append(time.perf_counter() - start)
    rates = {key: len(images) / median(times[key]) for key, (_, images) in runners.items()}
    best = _fastest(rates)
    low, high = np.quantile(times[best], (0.25, 0.75))
    return best, median(times[best]), bool(high < _STEADY * low)


def _fastest(rates: Mapping[int, float]) -> int:
    """Return whose rate is highest: the first that nothing beats by the margin."""
    best = next(iter(rates))
    for key in rates:
        if rates[key] > _MARGIN * rates[best]:
            best = key
    return best
