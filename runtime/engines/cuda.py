"""ONNX Runtime with the CUDA execution provider."""

from __future__ import annotations

import ctypes
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from dlcv.runtime.engines.base import (
    Arrays,
    EngineBase,
    EngineInfo,
    EngineModel,
    EngineOptions,
    EngineSettings,
    UInt8,
    check_feeds,
    settings_from_text,
    with_symbols,
)
from dlcv.runtime.engines.cuda_device import CudaDevice, OutOfDeviceMemoryError
from dlcv.runtime.engines.io_binding import SETS_OF_BUFFERS, BoundSession
from dlcv.runtime.engines.ort import reason_from_error, spec_from_argument
from dlcv.runtime.engines.ort_stateful import OrtRuns
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError
from dlcv.runtime.machine.gpu import Gpu, driver
from dlcv.runtime.machine.system import cpu_count

if TYPE_CHECKING:
    import numpy as np

    from dlcv.runtime.bundle.schema import TensorSpec
    from dlcv.runtime.engines.stateful import State, StatefulRuns

_PROVIDER = "CUDAExecutionProvider"
_LOG_FATAL_ONLY, _LOG_WARNINGS = 4, 2
# Expensive operators, which should run on the GPU. Shape arithmetic stays on the CPU on purpose.
_HEAVY = frozenset(
    [
        "Attention",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Einsum",
        "FusedConv",
        "FusedMatMul",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "MultiHeadAttention",
        "QLinearConv",
        "QLinearMatMul",
        "Resize",
        "SkipLayerNormalization",
        "Softmax",
    ]
)


class CudaSettings(EngineSettings, frozen=True):
    """Settings of engine `cuda`.

    device: number of the GPU. tf32: round the factors of fp32 products to 10 bits of mantissa; faster and less
    exact. cuda_graphs: record each shape's kernels once and replay them; faster for batches that take less than
    about a millisecond. cudnn_conv_algo_search: how cuDNN finds its convolutions: HEURISTIC takes 2 ms for a new shape, EXHAUSTIVE
    about 600, mostly for the same speed. prefer_nhwc: convolutions with channels last, which may suit fp16.
    """

    device: int = 0
    tf32: bool = False
    cuda_graphs: bool = False
    cudnn_conv_algo_search: Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"] = "HEURISTIC"
    prefer_nhwc: bool = False


@final
class CudaEngine(EngineBase):
    """Runs a graph with ONNX Runtime's CUDA provider, on page-locked buffers and a stream of its own.

    CUDA graphs belong to one thread: a thread that infers for the first time captures them anew.
    """

    def __init__(self, model: EngineModel, options: EngineOptions) -> None:
        import onnxruntime

        own = settings_from_text(CudaSettings, options.settings, engine="cuda")
        gpu = gpu_of_number(own.device, driver().gpus)
        check_precision(model)
        self._device = CudaDevice(own.device, say=lambda words: options.on_progress(words, None))
        stream = self._device.new_stream()
        try:
            provider_options = {
                "device_id": str(own.device),
                "user_compute_stream": str(self._device.stream_number(stream)),
                "use_tf32": str(int(own.tf32)),
                "enable_cuda_graph": str(int(own.cuda_graphs)),
                "cudnn_conv_algo_search": own.cudnn_conv_algo_search,
                "prefer_nhwc": str(int(own.prefer_nhwc)),
            }
            session = open_session(model, options, provider=(_PROVIDER, provider_options))
            require_provider(session, _PROVIDER)
        except (BundleError, EngineError, EngineUnavailableError):
            self._device.close()
            raise
        if strays := heavy_operators_elsewhere(session, _PROVIDER):
            options.on_progress(f"ONNX Runtime leaves these operators to the CPU: {strays}", None)
        self._inputs, self._outputs = session_specs(session, model)
        self._bound: BoundSession | None = BoundSession(
            session,
            specs=(self._inputs, self._outputs),
            place=("cuda", own.device),
            device=self._device,
            stream=stream,
            new_memory=lambda: CudaDevice(own.device),
            graphs=own.cuda_graphs,
        )
        self._new_runs: Callable[[State], StatefulRuns] | None = partial(
            OrtRuns,
            session,
            specs=(self._inputs, self._outputs),
            place=("cuda", own.device),
            errors=engine_errors,
        )
        self._info = EngineInfo(
            name="cuda",
            version=onnxruntime.__version__,
            device=f"{gpu.name} (cuda:{own.device})" + (", TF32" if own.tf32 else ""),
            precision=model.precision,
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`."""
        return self.start(feeds)()

    @property
    def batches_in_flight(self) -> int:
        """How many runs may be started before the first is finished; see `Engine.batches_in_flight`."""
        return SETS_OF_BUFFERS

    def host_memory(self, size: int) -> UInt8:
        """Return page-locked bytes; see `Engine.host_memory`."""
        return self._open().host_memory(size)

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Start a run; see `Engine.start`."""
        bound = self._ready(feeds)
        batch = len(next(iter(feeds.values())))
        with engine_errors(batch):
            finish = bound.start(feeds)

        def finished() -> Arrays:
            with engine_errors(batch):
                return finish()

        return finished

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time the device alone; see `DeviceTimer`."""
        bound = self._ready(feeds)
        with engine_errors(len(next(iter(feeds.values())))):
            return bound.device_seconds(feeds, repeats=repeats)

    def begin(self, state: State) -> StatefulRuns:
        """Return runs that keep a state on the GPU; see `KeepsState.begin`."""
        if self._new_runs is None:
            raise EngineError("the engine is closed; load the bundle again")
        self._device.use()
        return self._new_runs(state)

    def close(self) -> None:
        """Free buffers, session and stream."""
        if self._bound is not None:
            self._bound.close()
            self._bound = self._new_runs = None  # the session is freed before its stream
            self._device.close()

    def _ready(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> BoundSession:
        check_feeds(self._inputs, feeds)
        return self._open()

    def _open(self) -> BoundSession:
        if self._bound is None:
            raise EngineError("the engine is closed; load the bundle again")
        return self._bound


def gpu_of_number(number: int, gpus: tuple[Gpu, ...]) -> Gpu:
    """Return the GPU of a number.

    Raises:
        InputError: there is no such GPU.
    """
    if not 0 <= number < len(gpus):
        there_are = "; ".join(f"{gpu.index} is {gpu}" for gpu in gpus) or "there is none"
        raise InputError(f"there is no GPU {number}: {there_are}")
    return gpus[number]


def check_precision(model: EngineModel) -> None:
    """Check that the CUDA provider runs a model in the model's precision.

    Raises:
        InputError: an int8 graph.
    """
    if model.precision == "int8":
        raise InputError(
            "ONNX Runtime's CUDA provider has no int8 convolutions and would compute in fp32; "
            "use --precision fp16, or an int8 graph with --engine trt"
        )


def open_session(
    model: EngineModel, options: EngineOptions, *, provider: tuple[str, dict[str, str]]
) -> Any:
    """Return a session. ONNX Runtime's own messages are kept off the terminal.

    Raises:
        BundleError: the graph cannot be loaded.
        EngineError: the device's memory is too small.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or cpu_count()
    settings.log_severity_level = _LOG_FATAL_ONLY
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with redirect_stdout(io.StringIO()):  # it prints every library that it does not find
        onnxruntime.preload_dlls()
    # A provider that does not start writes red lines to the logger of the process, and our sentence says why.
    onnxruntime.set_default_logger_severity(_LOG_FATAL_ONLY)
    try:
        return onnxruntime.InferenceSession(
            model.onnx, settings, providers=[provider], enable_fallback=0
        )
    except Exception as e:  # ONNX Runtime's exceptions have no common base below Exception
        reason = reason_from_error(e)
        if is_out_of_memory(reason):
            raise EngineError(f"the GPU's memory is too small for the graph: {reason}") from e
        if "graph capture" in reason:
            reason += "; leave out -E cuda_graphs=true"
        raise BundleError(f"ONNX Runtime cannot load the graph: {reason}") from e
    finally:
        onnxruntime.set_default_logger_severity(_LOG_WARNINGS)  # ONNX Runtime's own default


def session_specs(
    session: Any, model: EngineModel
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return a session's inputs and outputs with the manifest's symbols."""
    inputs = [spec_from_argument(a) for a in session.get_inputs()]
    outputs = [spec_from_argument(a) for a in session.get_outputs()]
    return with_symbols(inputs, model.tensors), with_symbols(outputs, model.tensors)


def require_provider(session: Any, provider: str) -> None:
    """Check that a session runs on the requested provider. ONNX Runtime falls back to the CPU silently.

    Raises:
        EngineUnavailableError: it does not.
    """
    if session.get_providers()[0] != provider:
        raise EngineUnavailableError(
            f"ONNX Runtime's CUDA provider does not start ({_why_not_started()}); get its libraries with "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )


def _why_not_started() -> str:
    """Return why the provider did not start: the missing library, which ONNX Runtime only logs.

    Its provider is not loaded yet, so loading it can be tried.
    """
    import onnxruntime

    prefix, suffix = ("", "dll") if sys.platform == "win32" else ("lib", "so")
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_cuda.{suffix}"))
    except OSError as e:
        return str(e).replace(f"{folder}/", "")
    return "its libraries load, but it finds no device that it can use"


def heavy_operators_elsewhere(session: Any, provider: str) -> str:
    """Return the expensive operators that run on another provider, such as "Resize (2)", or ""."""
    found = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
        if node.op_type in _HEAVY
    )
    return ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))


@contextmanager
def engine_errors(batch: int) -> Iterator[None]:
    """Convert what ONNX Runtime and CUDA raise during a run to `EngineError`.

    Raises:
        EngineError: any failure; one for want of memory suggests a smaller batch.
    """
    try:
        yield
    except Exception as e:  # ONNX Runtime's exceptions have no common base below Exception
        reason = reason_from_error(e)
        if isinstance(e, OutOfDeviceMemoryError) or is_out_of_memory(reason):
            raise EngineError(
                f"the GPU's memory is too small for a batch of {batch}; give a smaller --batch"
            ) from e
        if isinstance(e, EngineError):
            raise
        raise EngineError(f"ONNX Runtime failed: {reason}") from e


def is_out_of_memory(reason: str) -> bool:
    """Return whether an ONNX Runtime message reports a lack of memory, from CUDA or from its arena."""
    return "out of memory" in reason or "Failed to allocate memory" in reason
