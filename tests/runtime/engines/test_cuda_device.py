"""CUDA's errors become ours, and each of its functions that is used exists as it is called."""

import inspect
from typing import Any

import pytest

from dlcv.runtime.engines.cuda_device import (
    CudaDevice,
    OutOfDeviceMemoryError,
    error_from_status,
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
    "cudaEventCreate": 0,
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
