"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np

from dlcv.runtime.closing import Closing
from dlcv.runtime.engines.base import (
    UNKNOWN,
    Arrays,
    EngineInfo,
    EngineModel,
    EngineOptions,
    EngineSettings,
    check_feeds,
    settings_from_text,
    with_symbols,
)
from dlcv.runtime.errors import BundleError, EngineError
from dlcv.runtime.manifest import DType, TensorSpec
from dlcv.runtime.system import cpu_count

_DTYPES: dict[str, DType] = {
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "f32": "float32",
}


class OpenVinoSettings(EngineSettings, frozen=True):
    """mode: optimise one call (latency) or many at once (throughput)."""

    mode: Literal["latency", "throughput"] = "latency"


@final
class OpenVinoEngine(Closing):
    """Runs a graph with OpenVINO's CPU plugin."""

    def __init__(self, model: EngineModel, options: EngineOptions) -> None:
        import openvino

        own = settings_from_text(OpenVinoSettings, options.settings, engine="openvino")
        core = openvino.Core()
        config = {
            "PERFORMANCE_HINT": own.mode.upper(),
            "INFERENCE_PRECISION_HINT": "f32",  # by itself it would lower to bf16 where the CPU has that
            "INFERENCE_NUM_THREADS": options.threads or cpu_count(),
        }
        try:
            compiled = core.compile_model(core.read_model(model.onnx), "CPU", config)
        except RuntimeError as e:
            raise BundleError(f"OpenVINO cannot load the graph: {_last_line(e)}") from e
        self._inputs = with_symbols([_spec_from_port(p) for p in compiled.inputs], model.tensors)
        self._outputs = with_symbols([_spec_from_port(p) for p in compiled.outputs], model.tensors)
        self._request: Any = compiled.create_infer_request()
        self._info = EngineInfo(
            name="openvino",
            version=openvino.__version__.split("-")[0],
            device="cpu",
            precision=model.precision,
        )

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in the graph's order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in the graph's order."""
        return self._outputs

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`."""
        check_feeds(self._inputs, feeds)
        if self._request is None:
            raise EngineError("the engine is closed; load the bundle again")
        try:
            results = self._request.infer(dict(feeds), share_inputs=True)
        except RuntimeError as e:
            raise EngineError(f"OpenVINO failed: {_last_line(e)}") from e
        return {spec.name: np.array(results[number]) for number, spec in enumerate(self._outputs)}

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None


def _spec_from_port(port: Any) -> TensorSpec:
    """OpenVINO forgets the symbols of an ONNX graph: a dynamic dimension is "?"."""
    shape = tuple(UNKNOWN if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
    return TensorSpec(
        name=port.get_any_name(),
        dtype=_DTYPES[port.get_element_type().get_type_name()],
        shape=shape,
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
