"""ONNX Runtime on a file's own graph, whatever its inputs are."""

from __future__ import annotations

from typing import Any, TypeAlias, cast, final

import numpy as np
import onnx

from dlcv.runtime.engines.ort import reason_from_error
from dlcv.runtime.errors import EngineError, InputError

Array: TypeAlias = "np.ndarray[Any, Any]"
_LOG_NOTHING = 4


@final
class Session:
    """A loaded graph of one input.

    Raises:
        InputError: ONNX Runtime cannot load it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_NOTHING
        options.add_session_config_entry("session.x64quantprecision", "1")  # as the engine does
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # ONNX Runtime's own classes share no base below Exception
            raise InputError(f"ONNX Runtime cannot load the graph: {reason_from_error(e)}") from e

    def run(self, name: str, array: Array) -> list[Array]:
        """Return the outputs in the graph's order.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        try:
            return cast("list[Array]", self._session.run(None, {name: array}))
        except Exception as e:
            raise EngineError(f"ONNX Runtime failed: {reason_from_error(e)}") from e
