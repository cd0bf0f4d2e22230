"""Queries the NVIDIA driver and its GPUs through libcuda. Needs no package and prints nothing."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: what cuInit says when CUDA_VISIBLE_DEVICES hides every GPU
_NO_GPU = "the NVIDIA driver sees no GPU; see CUDA_VISIBLE_DEVICES and nvidia-smi"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. compute_capability: (major, minor). memory_bytes: total, whether free or in use."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return (
            f"{self.name} (compute capability {major}.{minor}, {self.memory_bytes / 2**30:.0f} GiB)"
        )


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver as libcuda reports it.

    cuda: the newest CUDA version that the driver supports, (major, minor). fault: one sentence that says why no
    GPU can be used and how to fix it; None if one can.
    """

    cuda: tuple[int, int] | None
    gpus: tuple[Gpu, ...]
    fault: str | None

    def why_unfit(self, least: tuple[int, int]) -> str | None:
        """Return why no GPU here can run code built for CUDA `least`, or None if one can."""
        if self.cuda is None or self.fault or self.cuda >= least:
            return self.fault
        return (
            f"the NVIDIA driver is too old: it supports CUDA {'.'.join(map(str, self.cuda))}, needed is "
            f"{'.'.join(map(str, least))}; update the driver"
        )


@cache
def driver(library: str = _LIBRARY) -> Driver:
    """Query the driver. The result is cached for the process."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return Driver(
            cuda=None,
            gpus=(),
            fault=f"no NVIDIA driver is here ({library} cannot be loaded); install the driver, or in a "
            "container pass the GPU through (docker run --gpus all)",
        )
    code = cuda.cuInit(0)
    if code == _NO_DEVICE:
        return Driver(cuda=None, gpus=(), fault=_NO_GPU)
    if code:
        return Driver(
            cuda=None,
            gpus=(),
            fault=f"the NVIDIA driver does not start (cuInit returned {code}); run nvidia-smi to see why",
        )
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    newest = (version.value // 1000, version.value % 1000 // 10)
    return Driver(cuda=newest, gpus=gpus, fault=None if gpus else _NO_GPU)


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    memory, name = ctypes.c_size_t(0), ctypes.create_string_buffer(_NAME_BYTES)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, _NAME_BYTES, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace"),
        compute_capability=(major.value, minor.value),
        memory_bytes=memory.value,
    )
