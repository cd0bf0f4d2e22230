"""Runs a file's own graph with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast, final

import numpy as np
import onnx

from dlcv.runtime.engines.ort import reason_from_error
from dlcv.runtime.errors import EngineError, InputError

Array: TypeAlias = "np.ndarray[Any, Any]"
_LOG_NOTHING = 4


@final
class Session:
    """A loaded graph with one input.

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
        except Exception as e:  # ONNX Runtime's exceptions have no common base below Exception
            raise InputError(f"ONNX Runtime cannot load the graph: {reason_from_error(e)}") from e

    def run(self, name: str, array: Array, *, outputs: Sequence[str]) -> list[Array]:
        """Return outputs by name. A name may be given twice.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        try:
            names = list(dict.fromkeys(outputs))
            arrays = cast("list[Array]", self._session.run(names, {name: array}))
        except Exception as e:  # the same
            raise EngineError(f"ONNX Runtime failed: {reason_from_error(e)}") from e
        found = dict(zip(names, arrays, strict=True))
        return [found[name] for name in outputs]
