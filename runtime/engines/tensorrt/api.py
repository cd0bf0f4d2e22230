"""Differences between TensorRT and TensorRT-RTX, and helpers that both need."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dlcv.runtime.bundle.schema import DType
from dlcv.runtime.engines.base import EngineSettings
from dlcv.runtime.errors import EngineUnavailableError, InputError
from dlcv.runtime.machine.gpu import Driver, Gpu

CUDA_NEEDED = (13, 0)
LEAST_CAPABILITY = (7, 5)  # of CUDA 13's kernels, and of TensorRT 11
_SILENT = "it does not say why"
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory")
_NOISE = re.compile(r" ?\(cudaError|catchCudaError|^ModelImporter\.cpp:\d+: (While|---)")
_POSITION = re.compile(r" In \w+ at /\S+?:\d+|^\(?\w+(::\w+)*\)?: |Error Code \d+: ")


class PlanSettings(EngineSettings, frozen=True):
    """Settings of both TensorRT engines.

    device: number of the GPU. profile: "min,opt,max" batch; by default 1, --batch, --batch. workspace_mib: most
    device memory that one layer may use as workspace during the build; by default all. tf32: round the factors
    of fp32 products to 10 bits, faster and less exact. cuda_graphs: replay batches of a known shape as one
    launch.
    """

    device: int = 0
    profile: str = ""
    workspace_mib: int | None = None
    tf32: bool = False
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"workspace_mib must be 1 or more, not {self.workspace_mib}")


class TensorRtSettings(PlanSettings, frozen=True):
    """Settings of engine `trt`.

    hardware_compatible: build for every GPU of compute capability 8.0 or newer, at some loss of speed.
    version_compatible: build for later versions too; such a plan contains a runtime of its own, which is code
    that runs in this process.
    """

    hardware_compatible: bool = False
    version_compatible: bool = False


class TensorRtRtxSettings(PlanSettings, frozen=True):
    """Settings of engine `trt-rtx`.

    compute_capabilities: build for these alone, such as "86,89"; by default for all from 8.0 on.
    """

    compute_capabilities: str = ""


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """TensorRT or TensorRT-RTX.

    module: the Python module. words: its name in messages. settings: its settings class. portable: its plans
    run on other GPUs and systems, and building needs no GPU. times_kernels: the builder measures kernels and
    keeps the times; otherwise kernels are compiled at run time and kept in a runtime cache, and it handles CUDA
    graphs itself.
    """

    name: Literal["trt", "trt-rtx"]
    module: str
    words: str
    settings: type[PlanSettings]
    portable: bool
    times_kernels: bool


TENSORRT = Flavour(
    name="trt",
    module="tensorrt",
    words="TensorRT",
    settings=TensorRtSettings,
    portable=False,
    times_kernels=True,
)
TENSORRT_RTX = Flavour(
    name="trt-rtx",
    module="tensorrt_rtx",
    words="TensorRT-RTX",
    settings=TensorRtRtxSettings,
    portable=True,
    times_kernels=False,
)


def load_api(flavour: Flavour) -> Any:
    """Import TensorRT's Python module.

    Raises:
        EngineUnavailableError: it is installed without its libraries, or does not fit this system.
    """
    try:
        return importlib.import_module(flavour.module)
    except (ImportError, OSError, RuntimeError) as e:
        raise EngineUnavailableError(
            f"{flavour.words} is installed but does not start ({' '.join(str(e).split())}); "
            f"install it again with pip install 'dlcv[{flavour.name.removeprefix('trt-')}]'"
        ) from e


def require_gpu(driver: Driver, number: int, *, flavour: Flavour) -> Gpu:
    """Return the GPU with a number.

    Raises:
        EngineUnavailableError: there is none, or the driver is too old.
    """
    if driver.fault:
        raise EngineUnavailableError(f"{flavour.words} needs an NVIDIA GPU: {driver.fault}")
    if driver.cuda is not None and driver.cuda < CUDA_NEEDED:
        raise EngineUnavailableError(
            f"driver too old: it supports CUDA {_dotted(driver.cuda)}, {flavour.words} needs "
            f"{_dotted(CUDA_NEEDED)}; update the driver"
        )
    if not 0 <= number < len(driver.gpus):
        raise EngineUnavailableError(
            f"there is no GPU {number}, only 0 to {len(driver.gpus) - 1}; give another -E device=N"
        )
    gpu = driver.gpus[number]
    if gpu.compute_capability < LEAST_CAPABILITY:
        raise EngineUnavailableError(
            f"{gpu} is too old for {flavour.words}, which needs compute capability {_dotted(LEAST_CAPABILITY)}; "
            "use --engine ort or openvino"
        )
    return gpu


def started(factory: Callable[[Any], Any], logger: Any, *, flavour: Flavour) -> Any:
    """Return a Builder or Runtime of TensorRT.

    Raises:
        EngineUnavailableError: it does not start, of which TensorRT says only "factory function returned nullptr".
    """
    try:
        return factory(logger)
    except TypeError as e:
        reason = newest_error(logger) if logger.errors else " ".join(str(e).split())
        raise EngineUnavailableError(
            f"{flavour.words} does not start here ({reason}); its version and the driver's must fit: see dlcv-infer doctor"
        ) from e


def new_logger(trt: Any) -> Any:
    """Return a logger that collects TensorRT's error messages in its list `errors` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR and not _NOISE.search(message):
                self.errors.append(sentence_from_log(message))

    return Logger()


def first_error(logger: Any) -> str:
    """Return the first error that a logger from `new_logger` collected."""
    return logger.errors[0] if logger.errors else _SILENT


def newest_error(logger: Any) -> str:
    """Return the last error that a logger from `new_logger` collected."""
    return logger.errors[-1] if logger.errors else _SILENT


def is_out_of_memory(error: str) -> bool:
    """Return whether a message of TensorRT says that memory does not do."""
    return any(words in error.lower() for words in _OUT_OF_MEMORY)


def sentence_from_log(message: str) -> str:
    """Return a message on one line, without TensorRT's error codes and source positions."""
    line = " ".join(message.split())
    return _POSITION.sub("", _POSITION.sub("", line)).strip()


def dtype_from_tensorrt(trt: Any, dtype: Any) -> DType | None:
    """Return the name of a tensor's dtype, or None if dlcv does not support it."""
    names: dict[Any, DType] = {
        trt.DataType.UINT8: "uint8",
        trt.DataType.INT32: "int32",
        trt.DataType.INT64: "int64",
        trt.DataType.HALF: "float16",
        trt.DataType.FLOAT: "float32",
    }
    return names.get(dtype)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
