"""TensorRT and TensorRT-RTX: one implementation of their common API, given the Python module to use."""

from __future__ import annotations

from dlcv.runtime.engines.tensorrt.engine import TensorRtEngine, TensorRtRtxEngine

__all__ = ["TensorRtEngine", "TensorRtRtxEngine"]
