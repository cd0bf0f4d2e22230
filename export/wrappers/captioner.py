"""Wrapper for captioners: computes the memory that the decoder attends to."""

from __future__ import annotations

from typing import final

from torch import Tensor

from dlcv.export.wrappers.base import Normalize, Wrapper
from dlcv.train.caption.network import Captioner


@final
class CaptionEncoderWrapper(Wrapper):
    """Returns `memory` float32 (B, layers, 2, heads, places, width), keys and values of every layer."""

    output_names = ("memory",)

    def __init__(self, model: Captioner, normalize: Normalize) -> None:
        super().__init__(normalize)
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        return (self.model.decoder.memory(self.model.encoder(self.normalize(image))),)
