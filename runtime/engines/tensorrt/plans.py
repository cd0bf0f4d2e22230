"""Loads a plan from the bundle or the cache, or builds one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dlcv.runtime.engines.tensorrt.api import is_out_of_memory
from dlcv.runtime.engines.tensorrt.build import BuildRequest
from dlcv.runtime.engines.tensorrt.compatibility import misfit
from dlcv.runtime.errors import EngineError, OutputError
from dlcv.runtime.machine.cache import CacheKey, locked, lookup, store
from dlcv.runtime.machine.gpu import Gpu


def plan_key(request: BuildRequest) -> CacheKey:
    """Return the cache key of a plan."""
    subject = hashlib.sha256(request.model.onnx).hexdigest()
    return CacheKey(kind="engines", subject=subject, fields=request.fields)


def loaded_engine(
    request: BuildRequest,
    *,
    gpu: Gpu | None,
    build: Callable[[], bytes],
    deserialize: Callable[[bytes], Any],
    why: Callable[[], str],
) -> Any:
    """Return a TensorRT engine from the bundle's plan, a cached plan, or a new plan.

    A plan that does not fit is not loaded, and the reason is reported. A cached plan that fits but does not load is built
    once more, unless the GPU is full; the new one takes its place if it loads.

    build: returns a new plan. deserialize: returns an engine, or None if it does not load; why: the reason of that.

    Raises:
        EngineError: the GPU is full, or a plan that was just built does not load.
    """
    engine = _from_bundle(request, gpu=gpu, deserialize=deserialize, why=why)
    if engine is not None:
        return engine
    key = plan_key(request)
    engine = deserialize(cached_or_built(key, request, build=build))
    if engine is not None:
        return engine
    _require_memory(request, why())
    request.on_progress(
        f"building again: the cached engine {key.path} does not load: {why()}", None
    )
    data = build()
    engine = deserialize(data)
    if engine is None:
        _require_memory(request, why())
        raise EngineError(
            f"{request.flavour.words} does not load the engine that it has just built ({why()}); "
            "its libraries do not fit the driver or the GPU: see dlcv-infer doctor"
        )
    with suppress(OutputError):  # then it is built again next time
        store(key, data)
    return engine


def _require_memory(request: BuildRequest, reason: str) -> None:
    if is_out_of_memory(reason):
        raise EngineError(
            f"the GPU's memory does not do to load the {request.flavour.words} engine ({reason}); free some of it, or give "
            "a smaller --batch"
        )


def cached_or_built(key: CacheKey, request: BuildRequest, *, build: Callable[[], bytes]) -> bytes:
    """Return the cached plan, or build and store one. Of two processes, only one builds."""
    found = lookup(key)
    if found.data is not None:
        return found.data
    with locked(key):
        if (again := lookup(key)).data is not None:
            return again.data
        request.on_progress(f"building the {request.flavour.words} engine: {found.reason}", None)
        data = build()
        try:
            store(key, data)
        except OutputError as e:
            request.on_progress(f"the engine will be built again next time: {e}", None)
        return data


def _from_bundle(
    request: BuildRequest,
    *,
    gpu: Gpu | None,
    deserialize: Callable[[bytes], Any],
    why: Callable[[], str],
) -> Any:
    for stored in request.model.plans:
        if stored.plan.engine != request.flavour.name:
            continue
        reason = misfit(stored.plan.fields, request.fields, gpu=gpu)
        if reason is None:
            engine = deserialize(stored.read())
            if engine is not None:
                return engine
            reason = f"it does not load here: {why()}"
        request.on_progress(f"the bundle's {stored.plan.file} is not used: {reason}", None)
    return None
