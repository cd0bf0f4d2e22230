"""Wrappers: small modules that define a graph's inputs and outputs around an unchanged model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from torch import nn

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.export.wrappers.classifier import ClassifierWrapper
from dlcv.export.wrappers.timm_classifier import TimmClassifierWrapper
from dlcv.export.wrappers.timm_vit import TimmVitWrapper
from dlcv.export.wrappers.torchvision_vit import TorchvisionVitWrapper
from dlcv.export.wrappers.transformers_vit import TransformersVitWrapper
from dlcv.export.wrappers.untraced_classifier import UntracedClassifierWrapper
from dlcv.runtime.bundle.schema import Activation

__all__ = ["Normalize", "Wrapper", "wrap_classifier"]


def wrap_classifier(
    model: nn.Module,
    *,
    normalize: Normalize,
    size: tuple[int, int],
    activation: Activation = "softmax",
) -> Wrapper:
    """Return the wrapper with the most outputs that fits a classifier.

    size: (height, width) of the graph's input.
    """
    candidates: tuple[Callable[[], Wrapper], ...] = (
        lambda: TimmVitWrapper(model, normalize, activation),
        lambda: TorchvisionVitWrapper(model, normalize, activation),
        lambda: TransformersVitWrapper(model, normalize, activation),
        lambda: TimmClassifierWrapper(model, normalize, activation, size=size),
        lambda: ClassifierWrapper(model, normalize, activation),
    )
    for candidate in candidates:
        with suppress(Unwrappable):
            return candidate()
    return UntracedClassifierWrapper(model, normalize, activation, size=size)
