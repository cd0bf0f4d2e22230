"""ONNX Runtime on the CPU, the default engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast, final

import numpy as np

from dlcv.runtime.bundle.schema import DType, TensorSpec
from dlcv.runtime.engines.base import (
    UNKNOWN,
    Arrays,
    EngineBase,
    EngineInfo,
    EngineModel,
    EngineOptions,
    EngineSettings,
    check_feeds,
    settings_from_text,
)
from dlcv.runtime.errors import BundleError, EngineError
from dlcv.runtime.machine.system import cpu_count

_PROVIDER = "CPUExecutionProvider"
_DTYPES: dict[str, DType] = {
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
}
_LOG_ERRORS_ONLY = 3


class OrtSettings(EngineSettings, frozen=True):
    """Settings of engine `ort`.

    spinning: idle threads spin while they wait; faster alone, but they occupy cores that decode images.
    """

    spinning: bool = False


@final
class OrtEngine(EngineBase):
    """Runs a graph with ONNX Runtime's CPU provider (`onnxruntime.InferenceSession`)."""

    def __init__(self, model: EngineModel, options: EngineOptions) -> None:
        import onnxruntime

        own = settings_from_text(OrtSettings, options.settings, engine="ort")
        settings = onnxruntime.SessionOptions()
        # By itself ONNX Runtime would pin its threads to cores, and the thread that infers has to find another one.
        settings.intra_op_num_threads = options.threads or cpu_count()
        settings.log_severity_level = _LOG_ERRORS_ONLY
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(own.spinning)))
        # Without VNNI the fast int8 kernels overflow on weights of 8 bits; with VNNI this option has no effect.
        settings.add_session_config_entry("session.x64quantprecision", str(int(not model.narrow)))
        try:
            session = onnxruntime.InferenceSession(
                model.onnx,
                settings,
                providers=[_PROVIDER],
                enable_fallback=0,  # to the same provider once more, with lines on stdout
            )
        except Exception as e:  # ONNX Runtime's exceptions have no common base below Exception
            raise BundleError(f"ONNX Runtime cannot load the graph: {reason_from_error(e)}") from e
        self._inputs = tuple(spec_from_argument(a) for a in session.get_inputs())
        self._outputs = tuple(spec_from_argument(a) for a in session.get_outputs())
        self._session: onnxruntime.InferenceSession | None = session
        self._names = [spec.name for spec in self._outputs]
        self._info = EngineInfo(
            name="ort", version=onnxruntime.__version__, device="cpu", precision=model.precision
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`."""
        check_feeds(self._inputs, feeds)
        if self._session is None:
            raise EngineError("the engine is closed; load the bundle again")
        try:
            arrays = self._session.run(self._names, dict(feeds))
        except Exception as e:
            raise EngineError(f"ONNX Runtime failed: {reason_from_error(e)}") from e
        return dict(zip(self._names, cast("list[np.ndarray[Any, Any]]", arrays), strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def spec_from_argument(argument: Any) -> TensorSpec:
    """Return the spec of a session's input or output.

    Raises:
        BundleError: its type is none of ours.
    """
    dtype = _DTYPES.get(argument.type)
    if dtype is None:
        raise BundleError(
            f"tensor {argument.name!r} has type {argument.type}, which dlcv does not use"
        )
    shape = tuple(UNKNOWN if d is None else d for d in argument.shape)
    return TensorSpec(name=argument.name, dtype=dtype, shape=shape)


def reason_from_error(error: Exception) -> str:
    """Return the first line of a message, without ONNX Runtime's error code and source position."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ ", "", line)
