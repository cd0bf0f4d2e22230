"""TensorRT and TensorRT-RTX: one implementation over their common API; the Python module is the parameter."""

from __future__ import annotations

from dlcv.runtime.engines.tensorrt.engine import TensorRtEngine, TensorRtRtxEngine

__all__ = ["TensorRtEngine", "TensorRtRtxEngine"]
