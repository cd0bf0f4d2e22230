"""Open a bundle and run it: engines, pipeline, results. No PyTorch, ever."""

from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.caption.search import SearchOptions
from dlcv.runtime.engines import Engine, EngineInfo, EngineOptions, load_engine
from dlcv.runtime.errors import DlcvError
from dlcv.runtime.fewshot.prototypes import PrototypeClassifier, Prototypes
from dlcv.runtime.predictor import Predictor, load
from dlcv.runtime.results import (
    Caption,
    Classification,
    Embedding,
    Label,
    Refused,
    Result,
    Segmentation,
)

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
    "load_engine",
    "open_bundle",
]
