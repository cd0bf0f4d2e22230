"""Plain ONNX Runtime with default settings: the baseline of tuning and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np

from dlcv.runtime.bundle.schema import Precision, TensorSpec
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineInfo, EngineModel

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle

PLAIN = "plain ORT"


def plain_precision(bundle: Bundle) -> Precision:
    """Return the precision that the baseline runs in: fp32, or the bundle's default where it has no such graph."""
    graph = bundle.graph()
    return "fp32" if "fp32" in graph.precisions else graph.default_precision


@final
class PlainOrt(EngineBase):
    """`InferenceSession(model)` with all defaults, and `session.run(None, feeds)`: no checks, no options."""

    def __init__(self, model: EngineModel) -> None:
        import onnxruntime

        self._session: Any = onnxruntime.InferenceSession(
            model.onnx, providers=["CPUExecutionProvider"]
        )
        tensors = {spec.name: spec for spec in model.tensors}
        self._inputs: tuple[TensorSpec, ...] = tuple(
            tensors[argument.name] for argument in self._session.get_inputs()
        )
        self._outputs: tuple[TensorSpec, ...] = tuple(
            tensors[argument.name] for argument in self._session.get_outputs()
        )
        self._info = EngineInfo(
            name=PLAIN, version=onnxruntime.__version__, device="cpu", precision=model.precision
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once."""
        arrays = self._session.run(None, feeds)
        return dict(zip((spec.name for spec in self.outputs), arrays, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None
