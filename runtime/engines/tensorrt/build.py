"""Builds a TensorRT plan from an ONNX graph: parse, check the precision, configure, build."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlcv.runtime.bundle.onnx_protobuf import model_with_int32_outputs
from dlcv.runtime.bundle.schema import Precision, TensorSpec
from dlcv.runtime.engines.base import EngineModel, with_symbols
from dlcv.runtime.engines.cuda_device import CudaDevice
from dlcv.runtime.engines.tensorrt.api import (
    Flavour,
    PlanSettings,
    TensorRtRtxSettings,
    TensorRtSettings,
    dtype_from_tensorrt,
    first_error,
    is_out_of_memory,
    load_api,
    new_logger,
    sentence_from_log,
    started,
)
from dlcv.runtime.engines.tensorrt.compatibility import compute_capabilities
from dlcv.runtime.engines.tensorrt.inspector import realised_precision, shares_of_network
from dlcv.runtime.engines.tensorrt.optimization_profile import Profile
from dlcv.runtime.engines.tensorrt.progress import interruptible, new_monitor
from dlcv.runtime.errors import BundleError, EngineError, InputError, OutputError
from dlcv.runtime.machine.cache import CacheKey, lookup, store


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build. fields: those that the plan depends on (`plan_fields`). on_progress: as in EngineOptions."""

    flavour: Flavour
    model: EngineModel
    settings: PlanSettings
    profile: Profile
    fields: dict[str, str]
    on_progress: Callable[[str, float | None], None]


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """A plan, the share of its compute layers by precision, and the build time."""

    data: bytes
    precision: Precision
    shares: dict[Precision, float]
    seconds: float


def plan_from_graph(request: BuildRequest) -> BuiltPlan:
    """Build a plan.

    Raises:
        BundleError: the graph cannot be parsed or built, or has another precision than it says.
        EngineError: the device's memory does not do.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    try:
        return _built_plan(request)
    except BaseException as e:
        # An error's frames would keep the builder until some garbage collection. That may run inside the logger, while
        # TensorRT holds its lock, and freeing a builder waits for this lock: a deadlock.
        traceback.clear_frames(e.__traceback__)
        raise


def _built_plan(request: BuildRequest) -> BuiltPlan:
    start = time.perf_counter()
    trt = load_api(request.flavour)
    logger = new_logger(trt)
    if needs_device(request):
        CudaDevice(request.settings.device)  # a builder builds for the thread's current GPU
    builder = started(trt.Builder, logger, flavour=request.flavour)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(_without_uint16(request.model)):
        raise BundleError(_parse_failure(parser, request))
    shares = shares_of_network(trt, network)
    precision = realised_precision(request.model.precision, shares, source=request.model.source)
    config = builder.create_builder_config()
    _configure(trt, config, request)
    _add_profile(trt, builder, network=network, config=config, request=request)
    words = f"building the {request.flavour.words} engine"
    monitor = new_monitor(trt, lambda share: request.on_progress(words, share))
    config.progress_monitor = monitor
    timing_key = use_timings(config, request)
    with interruptible(monitor):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_failure(logger, request)
    if timing_key is not None:
        keep_timings(config, timing_key)
    seconds = time.perf_counter() - start
    return BuiltPlan(data=bytes(plan), precision=precision, shares=shares, seconds=seconds)


def needs_device(request: BuildRequest) -> bool:
    """Return whether a build depends on a GPU: always but of portable plans, which need none unless one was named."""
    return not request.flavour.portable or request.settings.device != 0


def _without_uint16(model: EngineModel) -> bytes:
    """Return the graph with int32 outputs for those of uint16, a type that TensorRT lacks; the host narrows them."""
    has_uint16 = any(spec.dtype == "uint16" for spec in model.tensors)
    return model_with_int32_outputs(model.onnx) if has_uint16 else model.onnx


def _configure(trt: Any, config: Any, request: BuildRequest) -> None:
    settings = request.settings
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # required by the inspector
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * 2**20)
    if isinstance(settings, TensorRtSettings):
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if isinstance(settings, TensorRtRtxSettings):
        _choose_devices(trt, config, compute_capabilities(settings))


def _choose_devices(trt: Any, config: Any, numbers: list[str]) -> None:
    known = {
        name.removeprefix("SM"): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if unknown := [number for number in numbers if number not in known]:
        raise InputError(
            f"TensorRT-RTX builds for compute capabilities {', '.join(known)}, not {unknown[0]}"
        )
    if numbers:
        config.num_compute_capabilities = len(numbers)
    for index, number in enumerate(numbers):
        config.set_compute_capability(known[number], index)


def _add_profile(
    trt: Any, builder: Any, *, network: Any, config: Any, request: BuildRequest
) -> None:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    for tensor in (*inputs, *outputs):
        if dtype_from_tensorrt(trt, tensor.dtype) is None:
            raise BundleError(
                f"{request.model.source}: tensor {tensor.name!r} is {tensor.dtype.name}, "
                "which dlcv does not use"
            )
    real = [_spec_from_tensor(trt, tensor) for tensor in inputs]
    profile = builder.create_optimization_profile()
    for spec in with_symbols(real, request.model.tensors):
        profile.set_shape(spec.name, *request.profile.shapes(spec))
    config.add_optimization_profile(profile)


def _spec_from_tensor(trt: Any, tensor: Any) -> TensorSpec:
    """Return the spec of a network tensor. Networks keep the symbols of the ONNX graph."""
    shape = tuple(
        (tensor.get_dimension_name(axis) or "?") if size < 0 else size
        for axis, size in enumerate(tensor.shape)
    )
    dtype = dtype_from_tensorrt(trt, tensor.dtype)
    assert dtype is not None  # all tensors were checked before
    return TensorSpec(name=tensor.name, dtype=dtype, shape=shape)


def _parse_failure(parser: Any, request: BuildRequest) -> str:
    """Return the first operator that TensorRT does not support, and its node."""
    source, words = request.model.source, request.flavour.words
    if not parser.num_errors:
        return f"{source}: {words} cannot read the graph; export the bundle again"
    fault = parser.get_error(0)
    if not fault.node_operator():
        return f"{source}: {words} cannot read the graph: {sentence_from_log(fault.desc())}"
    reason = sentence_from_log(fault.desc().partition("[checkMacros")[0])
    more = "" if reason in ("", "false") or "Plugin not found" in reason else f" ({reason})"
    return (
        f"{source}: {words} does not support operator {fault.node_operator()} of node "
        f"{fault.node_name()!r}{more}; run the graph on --engine ort, or export it without that operator"
    )


def _build_failure(logger: Any, request: BuildRequest) -> Exception:
    source, words, reason = request.model.source, request.flavour.words, first_error(logger)
    if any(is_out_of_memory(error) for error in logger.errors):
        return EngineError(
            f"the GPU's memory does not do to build {source} for batches of "
            f"{request.profile.ranges['batch'].most}; give a smaller --batch, or free some of it"
        )
    return BundleError(
        f"{source}: {words} cannot build the graph: {reason}; run it on --engine ort"
    )


def use_timings(config: Any, request: BuildRequest) -> CacheKey | None:
    """Load the kernel times of earlier builds, if the builder measures kernels. Return their cache key."""
    if not request.flavour.times_kernels:
        return None
    names = ("engine", "version", "device", "system")
    subject = hashlib.sha256(b"kernel timings").hexdigest()
    fields = {name: request.fields[name] for name in names}
    key = CacheKey(kind="timing", subject=subject, fields=fields)
    timings = config.create_timing_cache(lookup(key).data or b"")
    if not config.set_timing_cache(timings, False):  # made on another machine: start anew
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return key


def keep_timings(config: Any, key: CacheKey) -> None:
    """Store the kernel times of a build. An unwritable cache does not stop the run."""
    timings = config.get_timing_cache()
    try:
        store(key, bytes(timings.serialize()))
    except OutputError:
        return
