"""Open a bundle and run it: engines, pipeline, results. No PyTorch, ever."""

from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.caption.beam_search import SearchOptions
from dlcv.runtime.caption.result import Caption
from dlcv.runtime.caption.task import CAPTION
from dlcv.runtime.engines import Engine, EngineInfo, EngineOptions, load_engine
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
from dlcv.runtime.running.tasks import register_task

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

register_task("caption", CAPTION)
