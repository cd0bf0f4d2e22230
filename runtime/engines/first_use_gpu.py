"""How many images an engine on a GPU gets in one call where nobody said: measured once, kept in the cache.

A GPU is busy only with many images at a time; how many depends on the graph and the card. The smallest batch that is nearly as
fast as any is taken. An engine that is compiled for shapes is compiled once, for the largest batch: it is measured at all
batches, and it is what runs then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.engines.base import Engine, UInt8
from dlcv.runtime.engines.loading import Choice, load_chosen
from dlcv.runtime.engines.registry import engine_entry, engine_versions
from dlcv.runtime.errors import BundleError, DlcvError, EngineError, InputError, OutputError
from dlcv.runtime.machine.cache import CacheKey, lookup, store
from dlcv.runtime.machine.gpu import driver
from dlcv.runtime.machine.system import machine_name

if TYPE_CHECKING:
    from dlcv.runtime.machine.gpu import Gpu

BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)
_COMPILED = ("trt", "trt-rtx")  # for a range of batches; the others run any batch
_ENGINES = ("cuda", *_COMPILED)
_PIXELS_A_GIB = (
    256 * 224 * 224 // 16
)  # of the card's memory: 256 images of 224x224 on one of 16 GiB
_LOADS = 2  # where the largest batch does not fit into the memory, the next smaller one is tried
_SECONDS = 0.1  # for each batch size, twice
_LEAST_RUNS = 4
_LONGEST_CALL_SECONDS = 0.5
_MARGIN = (
    1.05  # so much faster must be a larger batch: it costs memory, and the first answer comes later
)
_STEADY = 1.5  # the faster of two rounds over the slower: beyond it the next use measures again

Rates: TypeAlias = "dict[int, float]"
"""Images a second, by batch size."""


class GpuBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found. batch: images in one call. compiled: the largest batch that the engine was compiled for."""

    batch: int
    compiled: int


def with_gpu_batch(
    bundle: Bundle, choice: Choice, *, outputs: Collection[str] | None, size: tuple[int, int]
) -> Choice:
    """Return a choice with the batch size that suits its GPU, where the caller and the tuning left it open.

    size: (height, width) of the largest images. Where the engine cannot be measured, the choice is returned as it is:
    whoever loads it will hear why.
    """
    gpu = _gpu_of(choice)
    if gpu is None:
        return choice
    key = _key(bundle, choice, gpu, outputs=outputs, size=size)
    found = _stored(key)
    if found is None:
        batches = _batches(bundle, choice, gpu, size)
        found, is_steady = _measured(bundle, choice, batches, outputs=outputs, size=size)
        if found is None:
            return choice
        if is_steady:
            _keep(key, found, choice)
    return _with_batch(choice, found)


def _gpu_of(choice: Choice) -> Gpu | None:
    """Return the GPU of a choice whose batch size is open, or None."""
    options = choice.options
    number = options.settings.get("device", "0")
    is_open = options.batch_size is None and "profile" not in options.settings
    if choice.engine not in _ENGINES or not is_open or not number.isdecimal():
        return None
    return next((gpu for gpu in driver().gpus if gpu.index == int(number)), None)


def _with_batch(choice: Choice, found: GpuBatch) -> Choice:
    settings = dict(choice.options.settings)
    if choice.engine in _COMPILED and found.compiled != found.batch:
        settings["profile"] = f"1,{found.compiled},{found.compiled}"  # the plan that was measured
    return replace(
        choice, options=replace(choice.options, batch_size=found.batch, settings=settings)
    )


def _batches(bundle: Bundle, choice: Choice, gpu: Gpu, size: tuple[int, int]) -> list[int]:
    """Return the batch sizes to try: those that should fit into the card, and into the bundle's plans where it has some."""
    images = gpu.memory_bytes / 2**30 * _PIXELS_A_GIB / (size[0] * size[1])
    most = min([images, *_planned(bundle, choice)])
    return [batch for batch in BATCHES if batch <= most] or [1]


def _planned(bundle: Bundle, choice: Choice) -> Iterator[int]:
    """Yield the largest batch of the plans that a bundle has for an engine."""
    from dlcv.runtime.engines.tensorrt.optimization_profile import profile_from_text

    name = bundle.variant_name(choice.precision, target=engine_entry(choice.engine).target)
    for plan in bundle.graph().variants[name].plans:
        with suppress(InputError, KeyError):  # what it says is no profile: it is not used either
            if plan.engine == choice.engine:
                yield profile_from_text(plan.fields["profile"]).ranges["batch"].most


def _measured(
    bundle: Bundle,
    choice: Choice,
    batches: list[int],
    *,
    outputs: Collection[str] | None,
    size: tuple[int, int],
) -> tuple[GpuBatch | None, bool]:
    """Return the batch size to run with, None where nothing ran, and whether two rounds were alike."""
    for largest in batches[::-1][:_LOADS]:
        options = replace(choice.options, batch_size=largest)
        try:
            with load_chosen(
                bundle, replace(choice, options=options), outputs=outputs, largest=size
            ) as engine:
                options.on_progress("measuring which batch size is fastest", None)
                first, second = _two_rounds(engine, [b for b in batches if b <= largest], size)
        except (EngineError, BundleError):  # too large for the memory, it may be
            continue
        except DlcvError:
            break
        again = {batch: second.get(batch, 0.0) for batch in first}  # it may have failed
        rates = {batch: max(first[batch], again[batch]) for batch in first}
        best = next(b for b in sorted(rates) if rates[b] * _MARGIN >= max(rates.values()))
        low, high = sorted((first[best], again[best]))
        return GpuBatch(batch=best, compiled=largest), high < _STEADY * low
    return None, False


def _two_rounds(engine: Engine, batches: list[int], size: tuple[int, int]) -> tuple[Rates, Rates]:
    """Return the rates of two rounds over the batch sizes that run, at least one.

    Raises:
        EngineError: not even the smallest runs.
    """
    images = _noise(engine, batches[-1], size)
    first = dict(_rates(engine, images, batches))
    if not first:
        engine.infer({"image": images[: batches[0]]})  # raises what was wrong
    return first, dict(_rates(engine, images, list(first)))


def _rates(engine: Engine, images: UInt8, batches: list[int]) -> Iterator[tuple[int, float]]:
    """Yield each batch size and its images a second, up to one that fails or would take too long."""
    rate = 0.0
    for batch in batches:
        if rate and batch > _LONGEST_CALL_SECONDS * rate:
            return
        try:
            rate = _rate(engine, images[:batch])
        except EngineError:
            return
        yield batch, rate


def _rate(engine: Engine, images: UInt8) -> float:
    """Return the images a second of an engine that is kept as busy as the running model keeps it."""
    _run(engine, images, least=2 * engine.batches_in_flight, seconds=0.0)  # buffers, CUDA graphs
    begin = time.perf_counter()
    runs = _run(engine, images, least=_LEAST_RUNS, seconds=_SECONDS)
    return runs * len(images) / (time.perf_counter() - begin)


def _run(engine: Engine, images: UInt8, *, least: int, seconds: float) -> int:
    started = deque([engine.start({"image": images})])
    runs, end = 1, time.perf_counter() + seconds
    while runs < least or time.perf_counter() < end:
        if len(started) >= engine.batches_in_flight:
            started.popleft()()
        started.append(engine.start({"image": images}))
        runs += 1
    while started:
        started.popleft()()
    return runs


def _noise(engine: Engine, batch: int, size: tuple[int, int]) -> UInt8:
    """Return images of noise, uint8 (batch, H, W, channels), in memory that the engine lends."""
    shape = (batch, *size, int(engine.inputs[0].shape[3]))
    images = engine.host_memory(int(np.prod(shape))).reshape(shape)
    images[:] = np.random.default_rng(0).integers(0, 256, shape[1:], np.uint8)
    return images


def _key(
    bundle: Bundle,
    choice: Choice,
    gpu: Gpu,
    *,
    outputs: Collection[str] | None,
    size: tuple[int, int],
) -> CacheKey:
    fields = {
        "what": "batch on a GPU",
        "machine": machine_name(),
        "gpu": str(gpu),
        "engine": f"{choice.engine} {choice.precision}",
        "settings": ", ".join(f"{k}={v}" for k, v in _others(choice)),
        "outputs": "all" if outputs is None else ", ".join(sorted(outputs)),
        "size": f"{size[0]}x{size[1]}",
    }
    return CacheKey(kind="first-use", subject=bundle.sha256, fields=fields | engine_versions())


def _others(choice: Choice) -> list[tuple[str, str]]:
    """Return the settings but the device: GPUs of one kind are alike."""
    return sorted((k, v) for k, v in choice.options.settings.items() if k != "device")


def _stored(key: CacheKey) -> GpuBatch | None:
    data = lookup(key).data
    try:
        return None if data is None else msgspec.json.decode(data, type=GpuBatch)
    except msgspec.MsgspecError:  # of another dlcv
        return None


def _keep(key: CacheKey, found: GpuBatch, choice: Choice) -> None:
    try:
        store(key, msgspec.json.encode(found))
    except OutputError as e:
        choice.options.on_progress(
            f"which batch size is fastest is found out anew each time, because dlcv {e}", None
        )
