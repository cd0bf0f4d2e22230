"""Wrapper for other timm classifiers, through timm's interface to features and head."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.export.wrappers.maps import class_activation_map
from dlcv.runtime.bundle.schema import Activation


@final
class TimmClassifierWrapper(Wrapper):
    """Returns probabilities, embedding and, if the head is pooling and one linear layer, a map.

    The head is examined by one run on random pixels of `size` (height, width).
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: Normalize,
        activation: Activation = "softmax",
        *,
        size: tuple[int, int],
    ) -> None:
        super().__init__(normalize, activation)
        if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
            raise Unwrappable("it lacks timm's forward_features and forward_head")
        self.model: Any = model
        self._channels_dim = _channels_dim_if_pooled(model, (normalize.channels, *size))
        self.output_names = ("probabilities", "embedding")
        if self._channels_dim is not None:
            self.output_names += ("explanation",)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        features = self.model.forward_features(self.normalize(image))
        logits = self.model.forward_head(features)
        answers = self.probabilities(logits), self.model.forward_head(features, pre_logits=True)
        if self._channels_dim is None:
            return answers
        if self._channels_dim != 1:
            features = features.permute(0, 3, 1, 2)
        weight = self.model.get_classifier().weight
        return *answers, class_activation_map(features, weight, logits)


def _channels_dim_if_pooled(model: Any, size: tuple[int, int, int]) -> int | None:
    """Return the axis of the features' channels if their mean is the input of a single linear layer."""
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        return None
    pixels = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model.forward_features(pixels)
        embedding = model.forward_head(features, pre_logits=True)
        if features.ndim != 4 or not _close(classifier(embedding), model.forward_head(features)):
            return None
    for channels, pooled in ((1, (2, 3)), (3, (1, 2))):
        mean = features.mean(pooled)
        if mean.shape == embedding.shape and _close(mean, embedding):
            return channels
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5)
