"""Wrappers for segmenters, which return logits (B, channels, H, W), alone or as `{"out": logits}`."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Wrapper

_MOST_OF_8_BITS = 1 << 8


@final
class SegmenterWrapper(Wrapper):
    """Returns `mask` uint8 (B, H, W), uint16 of more than 256 classes, and `confidence` float32 (B, H, W).

    The network has a channel for each class. `confidence` is the probability of the class in the mask.
    """

    output_names = ("mask", "confidence")

    def __init__(self, model: nn.Module, normalize: Normalize, *, classes: int) -> None:
        super().__init__(normalize)
        self.model = model
        self._dtype = mask_dtype(classes)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        logits = segmentation_logits(self.model, self.normalize(image))
        mask = logits.argmax(dim=1).to(self._dtype)
        # The largest of softmax(logits): 4 ms where softmax and maximum take 36 (ONNX Runtime, one
        # core, 11 classes at 360x480), as no plane of probabilities is made.
        shifted = logits - logits.amax(dim=1, keepdim=True)
        return mask, 1 / shifted.exp().sum(dim=1)


@final
class BinarySegmenterWrapper(Wrapper):
    """The same outputs of a network with one channel, whose sigmoid is the probability of the second of two classes.

    threshold: the probability from which a pixel is of the second class. `confidence` is the probability of the class
    in the mask, below 0.5 where the threshold is not 0.5 and decides against the likelier one.
    """

    output_names = ("mask", "confidence")

    def __init__(self, model: nn.Module, normalize: Normalize, *, threshold: float) -> None:
        super().__init__(normalize, "sigmoid")
        self.model = model
        self._least = math.log(threshold / (1 - threshold))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        logits = segmentation_logits(self.model, self.normalize(image)).squeeze(1)
        is_second = logits >= self._least
        return is_second.to(torch.uint8), torch.where(is_second, logits, -logits).sigmoid()


def mask_dtype(classes: int) -> torch.dtype:
    """Return the dtype of a mask of so many classes."""
    return torch.uint8 if classes <= _MOST_OF_8_BITS else torch.uint16


def segmentation_logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return a segmenter's logits (B, channels, H, W). pixels: normalised float32 (B, C, H, W)."""
    answer = model(pixels)
    logits: Tensor = answer["out"] if isinstance(answer, dict) else answer
    return logits
