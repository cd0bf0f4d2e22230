"""Wrappers: small modules that define a graph's inputs and outputs around an unchanged model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.export.wrappers.captioner import CaptionEncoderWrapper
from dlcv.export.wrappers.classifier import ClassifierWrapper
from dlcv.export.wrappers.embedder import EmbedderWrapper
from dlcv.export.wrappers.segmenter import SegmenterWrapper
from dlcv.export.wrappers.timm_classifier import TimmClassifierWrapper
from dlcv.export.wrappers.timm_vit import TimmVitWrapper
from dlcv.export.wrappers.torchvision_vit import TorchvisionVitWrapper
from dlcv.runtime.bundle.schema import Task
from dlcv.runtime.errors import InputError
from dlcv.train.caption.network import Captioner

__all__ = ["Normalize", "Wrapper", "wrap"]


def wrap(model: nn.Module, task: Task, *, normalize: Normalize, size: tuple[int, int]) -> Wrapper:
    """Return the wrapper with the most outputs that fits a model, in evaluation mode.

    size: (height, width) of the graph's input.

    Raises:
        InputError: no wrapper is made for the model.
    """
    if task == "segment":
        return SegmenterWrapper(model, normalize).eval()
    if task == "embed":
        return EmbedderWrapper(model, normalize).eval()
    if isinstance(model, Captioner):
        return CaptionEncoderWrapper(model, normalize).eval()
    candidates: tuple[Callable[[], Wrapper], ...] = (
        lambda: TimmVitWrapper(model, normalize),
        lambda: TorchvisionVitWrapper(model, normalize),
        lambda: TimmClassifierWrapper(model, normalize, size=size),
        lambda: ClassifierWrapper(model, normalize),
    )
    reasons = []
    for candidate in candidates:
        try:
            return candidate().eval()
        except Unwrappable as e:
            reasons.append(str(e))
    raise InputError(
        f"a model of type {type(model).__name__} cannot be exported as a classifier: "
        f"{'; '.join(reasons)}; it needs a last nn.Linear layer and code that torch.fx can trace"
    )
