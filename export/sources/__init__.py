"""Sources of an export: `timm:NAME`, `torchvision:NAME`, or a checkpoint folder of dlcv."""

from __future__ import annotations

from pathlib import Path

from dlcv.export.sources.base import ExportSource, SourceOptions
from dlcv.runtime.errors import InputError

__all__ = ["ExportSource", "SourceOptions", "load_source"]


def load_source(spec: str, options: SourceOptions | None = None) -> ExportSource:
    """Load the model to export.

    Raises:
        InputError: nothing of that name, or options that do not fit.
        RecipeError: a checkpoint or a weights file is damaged or does not fit.
    """
    options = options or SourceOptions()
    library, colon, name = spec.partition(":")
    if colon and library == "timm":
        from dlcv.export.sources.timm import source_from_timm

        return source_from_timm(name, options)
    if colon and library == "torchvision":
        from dlcv.export.sources.torchvision import source_from_torchvision

        return source_from_torchvision(name, options)
    if not Path(spec).is_dir():
        raise InputError(
            f"nothing to export at {spec!r}; give a checkpoint folder, timm:NAME or torchvision:NAME"
        )
    from dlcv.export.sources.checkpoint import source_from_checkpoint

    return source_from_checkpoint(Path(spec), options)
