"""Open a bundle and run it: engines, pipeline, results. No PyTorch, ever."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle, open_bundle
    from dlcv.runtime.caption.beam_search import SearchOptions
    from dlcv.runtime.caption.result import Caption
    from dlcv.runtime.engines import (
        Engine,
        EngineInfo,
        EngineOptions,
        load_any_size,
        load_engine,
    )
    from dlcv.runtime.errors import DlcvError
    from dlcv.runtime.fewshot.prototypes import PrototypeClassifier, Prototypes
    from dlcv.runtime.results import (
        Classification,
        Embedding,
        Label,
        Refused,
        Result,
        Segmentation,
    )
    from dlcv.runtime.running.predictor import Predictor, load

__all__ = [
    "Bundle",
    "Caption",
    "Classification",
    "DlcvError",
    "Embedding",
    "Engine",
    "EngineInfo",
    "EngineOptions",
    "Label",
    "Predictor",
    "PrototypeClassifier",
    "Prototypes",
    "Refused",
    "Result",
    "SearchOptions",
    "Segmentation",
    "load",
    "load_any_size",
    "load_engine",
    "open_bundle",
]

_MODULES = (
    *("errors", "bundle", "engines", "results", "running.predictor"),
    *("caption.beam_search", "caption.result", "fewshot.prototypes"),
)


def __getattr__(name: str) -> Any:  # a command that needs one room does not wait for all
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
