"""Sources of an export: one visible dict from prefix to function, imported on use.

Other packages add a source by an entry point of the group `dlcv.sources`, whose name is the prefix.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

from dlcv.export.sources.base import ExportSource, ImageOptions, SourceOptions
from dlcv.runtime.errors import InputError

__all__ = ["SOURCES", "ExportSource", "ImageOptions", "SourceOptions", "load_source"]

SourceFunction: TypeAlias = Callable[[str, SourceOptions], ExportSource]
"""From what follows the prefix, and the user's options, to a source. It raises InputError or RecipeError."""

SOURCES = {
    "timm": "dlcv.export.sources.timm:source_from_timm",
    "torchvision": "dlcv.export.sources.torchvision:source_from_torchvision",
    "smp": "dlcv.export.sources.smp:source_from_smp",
    "hf": "dlcv.export.sources.hf:source_from_hf",
    "py": "dlcv.export.sources.python_file:source_from_python_file",
}
_KNOWING_THEIR_TASK = ("timm", "torchvision")
GROUP = "dlcv.sources"


def load_source(spec: str, options: SourceOptions | None = None) -> ExportSource:
    """Load the model to export.

    Raises:
        InputError: nothing of that name, or options that do not fit.
        RecipeError: a checkpoint or a weights file is damaged or does not fit.
    """
    options = options or SourceOptions()
    prefix, colon, rest = spec.partition(":")
    if prefix in _KNOWING_THEIR_TASK or not colon:
        _require_only_fitting(options, prefix if colon else "")
    if colon and (function := _function_of(prefix)):
        return function(rest, options)
    if not Path(spec).is_dir():
        known = ", ".join(f"{name}:..." for name in [*SOURCES, *_others()])
        raise InputError(
            f"nothing to export at {spec!r}; give a checkpoint folder, or one of {known}"
        )
    from dlcv.export.sources.checkpoint import source_from_checkpoint

    return source_from_checkpoint(Path(spec), options)


def _require_only_fitting(options: SourceOptions, prefix: str) -> None:
    """Refuse what a source would ignore: it knows its task, and a checkpoint of ours all of it."""
    given: dict[str, object] = {"--task": options.task}
    if not prefix:
        given |= {"--set": options.settings, **options.images.as_text()}
    if unused := [name for name, value in given.items() if value]:
        what = f"{prefix}: networks" if prefix else "a checkpoint of dlcv-train"
        raise InputError(
            f"{', '.join(unused)} is for networks that do not say it themselves, as py:FILE.py:FUNCTION; {what} do"
            f"{'' if prefix else 'es'}, so leave it out"
        )


def _function_of(prefix: str) -> SourceFunction | None:
    if prefix in SOURCES:
        module, _, name = SOURCES[prefix].partition(":")
        function: SourceFunction = getattr(importlib.import_module(module), name)
        return function
    for entry in entry_points(group=GROUP, name=prefix):
        try:
            added: SourceFunction = entry.load()
        except Exception as e:  # anything can come from another package
            raise InputError(f"the package that adds {prefix}: cannot be loaded: {e}") from e
        return added
    return None


def _others() -> list[str]:
    return sorted(entry.name for entry in entry_points(group=GROUP))
