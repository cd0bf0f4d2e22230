"""Execution contexts, kernel timings and compiled kernels: what is shared, kept and found again."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dlcv.runtime.engines import EngineModel, EngineOptions
from dlcv.runtime.engines.cuda_device import Device as RealDevice
from dlcv.runtime.engines.cuda_device import OutOfDeviceMemoryError
from dlcv.runtime.engines.tensorrt.api import TENSORRT, TENSORRT_RTX, Flavour
from dlcv.runtime.engines.tensorrt.build import BuildRequest, keep_timings, use_timings
from dlcv.runtime.engines.tensorrt.execution_contexts import Contexts
from dlcv.runtime.engines.tensorrt.optimization_profile import Profile, range_from_text
from dlcv.runtime.errors import EngineError
from dlcv.runtime.machine.gpu import Gpu

H100 = Gpu(index=0, name="NVIDIA H100", compute_capability=(9, 0), memory_bytes=80 * 2**30)
TRT = SimpleNamespace(
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


def request_of(flavour: Flavour, **settings: Any) -> BuildRequest:
    return BuildRequest(
        flavour=flavour,
        model=EngineModel(onnx=b"a graph"),
        settings=flavour.settings(**settings),
        profile=Profile(ranges={"batch": range_from_text("1,8,32")}),
        fields={"engine": flavour.name, "version": "1", "device": "any", "system": "any"},
        on_progress=EngineOptions().on_progress,
    )


class Device:
    """Counts what is allocated."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.sizes: list[int] = []

    def allocate(self, size: int) -> int:
        if self.full:
            raise OutOfDeviceMemoryError("the GPU's memory does not do (out of memory)")
        self.sizes.append(size)
        return 4096


class Context:
    """Remembers what it was made with."""

    def __init__(self, made_with: Any) -> None:
        self.made_with = made_with
        self.memory: tuple[int, int] | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)


class CompilingCache:
    """What TensorRT-RTX compiles, as bytes."""

    def __init__(self) -> None:
        self.data = b""

    def deserialize(self, data: bytes) -> bool:
        self.data = data
        return True

    def serialize(self) -> bytes:
        return self.data


class RuntimeConfig:
    """The configuration of a context of TensorRT-RTX."""

    cuda_graph_strategy = "none"

    def create_runtime_cache(self) -> CompilingCache:
        return CompilingCache()

    def set_runtime_cache(self, cache: CompilingCache) -> None:
        self.cache = cache


class LoadedEngine:
    """A loaded engine that needs some working memory."""

    device_memory_size_v2 = 512

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, made_with: Any) -> Context | None:
        return None if self.refuses else Context(made_with)


def contexts_of(flavour: Flavour, device: Any = None, *, refuses: bool = False, **settings: Any):
    return Contexts(
        TRT,
        LoadedEngine(refuses=refuses),
        cast("RealDevice", device or Device()),
        request=request_of(flavour, **settings),
        gpu=H100,
        logger=SimpleNamespace(errors=["out of words"]),
    )


def test_contexts_of_tensorrt_share_one_working_memory() -> None:
    device = Device()
    contexts = contexts_of(TENSORRT, device)
    first, second = contexts.new_context(), contexts.new_context()
    assert first is not second
    assert first.made_with == "user managed"
    assert first.memory == second.memory == (4096, 512)
    assert device.sizes == [512]


@pytest.mark.parametrize(
    ("device", "refuses", "reason"),
    [
        (Device(full=True), False, "the GPU's memory does not do"),
        (Device(), True, "out of words"),
    ],
)
def test_too_little_memory_for_a_context_suggests_a_smaller_batch(
    device: Device, refuses: bool, reason: str
) -> None:
    message = f"TensorRT cannot prepare batches of 32: {reason}.*; give a smaller --batch"
    with pytest.raises(EngineError, match=message):
        contexts_of(TENSORRT, device, refuses=refuses).new_context()


def test_what_tensorrt_rtx_compiles_is_found_again() -> None:
    first = contexts_of(TENSORRT_RTX)
    context = first.new_context()
    assert context.made_with.cuda_graph_strategy == "whole graph"
    context.made_with.cache.data = b"kernels"
    first.keep_compiled()
    assert contexts_of(TENSORRT_RTX).new_context().made_with.cache.data == b"kernels"


def test_without_cuda_graphs_tensorrt_rtx_records_none() -> None:
    context = contexts_of(TENSORRT_RTX, cuda_graphs=False).new_context()
    assert context.made_with.cuda_graph_strategy == "none"


def test_tensorrt_itself_compiles_nothing_at_run_time(tmp_path: Path) -> None:
    contexts = contexts_of(TENSORRT)
    contexts.new_context()
    contexts.keep_compiled()
    assert not (tmp_path / "cache").exists()


class Timings:
    """Kernel timings, as bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class BuilderConfig:
    """Takes timings unless they are foreign."""

    def __init__(self, *, foreign: bytes = b"-") -> None:
        self.foreign = foreign
        self.timings: Timings | None = None

    def create_timing_cache(self, data: bytes) -> Timings:
        return Timings(data)

    def set_timing_cache(self, timings: Timings, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if timings.data == self.foreign:
            return False
        self.timings = timings
        return True

    def get_timing_cache(self) -> Timings:
        assert self.timings is not None
        return self.timings


def timings_found(config: BuilderConfig, request: BuildRequest) -> bytes:
    use_timings(config, request)
    return config.get_timing_cache().data


def test_kernel_timings_serve_the_next_build_of_any_graph() -> None:
    request = request_of(TENSORRT)
    config = BuilderConfig()
    key = use_timings(config, request)
    assert key is not None
    assert config.get_timing_cache().data == b""
    config.get_timing_cache().data = b"times"
    keep_timings(config, key)
    other = dataclasses.replace(request, model=EngineModel(onnx=b"another"))
    assert timings_found(BuilderConfig(), other) == b"times"
    newer = dataclasses.replace(request, fields=request.fields | {"version": "2"})
    assert timings_found(BuilderConfig(), newer) == b""


def test_timings_that_the_builder_refuses_are_begun_anew() -> None:
    request = request_of(TENSORRT)
    config = BuilderConfig()
    key = use_timings(config, request)
    assert key is not None
    config.get_timing_cache().data = b"foreign"
    keep_timings(config, key)
    assert timings_found(BuilderConfig(foreign=b"foreign"), request) == b""


def test_tensorrt_rtx_keeps_no_timings() -> None:
    assert use_timings(BuilderConfig(), request_of(TENSORRT_RTX)) is None
