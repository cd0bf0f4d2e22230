"""Graphs on devices: one file an engine, a registry of them, and what runs where the caller left it open."""

from dlcv.runtime.engines.any_size import any_size_model, load_any_size
from dlcv.runtime.engines.base import Engine, EngineInfo, EngineModel, EngineOptions
from dlcv.runtime.engines.choice import choose, load_engine
from dlcv.runtime.engines.entry import EngineEntry
from dlcv.runtime.engines.loading import Choice, engine_model
from dlcv.runtime.engines.registry import (
    ENGINES,
    engine_entry,
    engine_names,
    engine_versions,
    why_unavailable,
)

__all__ = [
    "ENGINES",
    "Choice",
    "Engine",
    "EngineEntry",
    "EngineInfo",
    "EngineModel",
    "EngineOptions",
    "any_size_model",
    "choose",
    "engine_entry",
    "engine_model",
    "engine_names",
    "engine_versions",
    "load_any_size",
    "load_engine",
    "why_unavailable",
]
