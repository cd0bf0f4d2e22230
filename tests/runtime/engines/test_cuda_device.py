"""CUDA's errors become ours, and each of its functions that is used exists as it is called."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from dlcv.runtime.engines.cuda_device import (
    CudaDevice,
    OutOfDeviceMemoryError,
    error_from_status,
    native_handle,
)
from dlcv.runtime.errors import (
    DlcvError,
    EngineError,
    EngineUnavailableError,
)
from dlcv.runtime.machine.gpu import driver


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cudaErrorMemoryAllocation", OutOfDeviceMemoryError, "memory does not do .out of memory."),
        ("cudaErrorInsufficientDriver", EngineUnavailableError, "driver too old: .*CUDA 13.0"),
        ("cudaErrorNoDevice", EngineUnavailableError, "no GPU can be used .*; see nvidia-smi"),
        ("cudaErrorIllegalAddress", EngineError, r"CUDA failed \(cudaErrorIllegalAddress\): an il"),
    ],
)
def test_each_error_of_cuda_becomes_one_of_ours(
    name: str, kind: type[DlcvError], message: str
) -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(kind, match=message):
        raise error_from_status(cuda, getattr(cuda.cudaError_t, name))


CUDA_CALLS = {  # name: parameters, as device.py calls it
    "cudaSetDevice": 1,
    "cudaMalloc": 1,
    "cudaFree": 1,
    "cudaHostAlloc": 2,
    "cudaFreeHost": 1,
    "cudaStreamCreateWithFlags": 1,
    "cudaStreamDestroy": 1,
    "cudaStreamSynchronize": 1,
    "cudaStreamWaitEvent": 3,
    "cudaStreamBeginCapture": 2,
    "cudaStreamEndCapture": 1,
    "cudaEventCreateWithFlags": 1,
    "cudaEventDestroy": 1,
    "cudaEventRecord": 2,
    "cudaEventSynchronize": 1,
    "cudaEventElapsedTime": 2,
    "cudaMemcpyAsync": 5,
    "cudaGraphInstantiate": 2,
    "cudaGraphDestroy": 1,
    "cudaGraphLaunch": 2,
    "cudaGraphExecDestroy": 1,
    "cudaGetErrorString": 1,
    "cudaGetLastError": 0,
}
CUDA_VALUES = (
    "cudaEventBlockingSync",
    "cudaHostAllocDefault",
    "cudaStreamNonBlocking",
    "cudaError_t.cudaSuccess",
    "cudaMemcpyKind.cudaMemcpyHostToDevice",
    "cudaMemcpyKind.cudaMemcpyDeviceToHost",
    "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal",
)


def test_every_name_of_cuda_that_is_used_exists_with_its_parameters() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    source = inspect.getsource(CudaDevice)
    used = {word.split(".")[0] for word in _words_after(source, "_cuda.")}
    listed = set(CUDA_CALLS) | {value.split(".")[0] for value in CUDA_VALUES}
    assert used <= listed
    for name, count in CUDA_CALLS.items():
        signature = (getattr(cuda, name).__doc__ or "").splitlines()[0]
        inside = signature.partition("(")[2].rpartition(")")[0]
        assert len([p for p in inside.split(",") if p.strip()]) == count, signature
    for value in CUDA_VALUES:
        thing: Any = cuda
        for part in value.split("."):
            thing = getattr(thing, part)


def _words_after(text: str, mark: str) -> list[str]:
    parts = text.split(mark)[1:]
    return [
        "".join(c if c.isalnum() or c == "_" else " " for c in part).split()[0] for part in parts
    ]


def test_a_device_without_a_driver_says_so() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if driver().fault is None:
        pytest.skip("there is a driver here")
    with pytest.raises(EngineUnavailableError, match=r"driver too old|no GPU can be used"):
        CudaDevice(0)


class FakeCuda:
    """What `CudaDevice` needs of `cuda.bindings.runtime`: calls are written down, and some fail."""

    class cudaError_t:  # noqa: N801  # as CUDA calls it
        cudaSuccess, cudaErrorMemoryAllocation = 0, 2  # noqa: N815
        cudaErrorInsufficientDriver, cudaErrorNoDevice = 35, 100  # noqa: N815

    class cudaStreamCaptureMode:  # noqa: N801
        cudaStreamCaptureModeThreadLocal = 1  # noqa: N815

    def __init__(self, *, fails: tuple[str, ...] = ()) -> None:
        self.fails = fails
        self.calls: list[str] = []
        self.memory = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda") or name[4].islower():
            raise AttributeError(name)
        if not name.startswith(("cudaM", "cudaF", "cudaS", "cudaE", "cudaG", "cudaHostAlloc")):
            return 0

        def call(*_: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name == "cudaGetErrorString":
                return 0, b"out of memory"
            if name in self.fails:
                return (2, None)
            self.memory += 1
            return (0, self.memory)

        return call


@pytest.fixture
def new_device(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[CudaDevice, FakeCuda, list[str]]]:
    def new(**options: Any) -> tuple[CudaDevice, FakeCuda, list[str]]:
        cuda = FakeCuda(**options)
        said: list[str] = []
        monkeypatch.setattr(importlib, "import_module", lambda _: cuda)
        return CudaDevice(0, say=said.append), cuda, said

    return new


def test_memory_that_cannot_be_page_locked_is_ordinary_memory_and_said_once(new_device) -> None:
    device, _, said = new_device(fails=("cudaHostAlloc",))
    first, second = device.allocate_pinned(10), device.allocate_pinned(20)
    assert (len(first), len(second)) == (10, 20)
    assert len(said) == 1
    assert "copies to the GPU are slower" in said[0]
    device.close()


def test_what_was_allocated_before_a_failure_is_freed(new_device) -> None:
    device, cuda, _ = new_device()
    kept = device.allocate(8)

    def allocate_and_fail() -> None:
        with device.all_or_nothing():
            device.allocate(8)
            device.new_event()
            raise OutOfDeviceMemoryError("full")

    with pytest.raises(OutOfDeviceMemoryError):
        allocate_and_fail()
    assert [c for c in cuda.calls if "Free" in c or "Destroy" in c] == [
        "cudaEventDestroy",
        "cudaFree",
    ]
    device.close()
    assert cuda.calls.count("cudaFree") == 2
    assert kept


def test_ctrl_c_during_a_capture_ends_the_capture(new_device) -> None:
    device, cuda, _ = new_device()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.captured(interrupted, stream=1)
    assert cuda.calls.count("cudaStreamEndCapture") == 1


@pytest.mark.parametrize("step", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_capture_that_fails_gives_no_graph(new_device, step: str) -> None:
    device, cuda, _ = new_device(fails=(step,))
    assert device.captured(lambda: None, stream=1) is None
    if step == "cudaGraphInstantiate":
        assert "cudaGraphDestroy" in cuda.calls


def test_a_stream_becomes_an_integer_without_a_warning() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert native_handle(runtime.cudaStream_t(7)) == 7
