"""Imports ONNX files as bundles, without PyTorch."""

from __future__ import annotations

from dlcv.export.onnx_import.bundle import import_bundle
from dlcv.export.onnx_import.options import ImportOptions, Scaling

__all__ = ["ImportOptions", "Scaling", "import_bundle"]
