"""Exports checkpoints as bundles: ONNX graphs, lower precisions, and the parity gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcv.export.sources.module import export_model

__all__ = ["export_model"]


def __getattr__(
    name: str,
) -> Any:  # `import dlcv.export` stays light: PyTorch comes with the first use
    if name == "export_model":
        from dlcv.export.sources.module import export_model

        return export_model
    raise AttributeError(f"module 'dlcv.export' has no attribute {name!r}")
