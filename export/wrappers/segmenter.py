"""Wrapper for segmenters, which return logits (B, classes, H, W), alone or as `{"out": logits}`."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Wrapper


@final
class SegmenterWrapper(Wrapper):
    """Returns `mask` uint8 (B, H, W) and `confidence` float32 (B, H, W), the mask's probability."""

    output_names = ("mask", "confidence")

    def __init__(self, model: nn.Module, normalize: Normalize) -> None:
        super().__init__(normalize)
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, 3)."""
        logits = segmentation_logits(self.model, self.normalize(image))
        mask = logits.argmax(dim=1).to(torch.uint8)
        # The largest of softmax(logits): 4 ms where softmax and maximum take 36 (ONNX Runtime, one
        # core, 11 classes at 360x480), as no plane of probabilities is made.
        shifted = logits - logits.amax(dim=1, keepdim=True)
        return mask, 1 / shifted.exp().sum(dim=1)


def segmentation_logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return a segmenter's logits (B, classes, H, W). pixels: normalised float32 (B, 3, H, W)."""
    answer = model(pixels)
    logits: Tensor = answer["out"] if isinstance(answer, dict) else answer
    return logits
