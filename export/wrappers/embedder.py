"""Wrapper for embedders, which return one vector per image."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Wrapper


@final
class EmbedderWrapper(Wrapper):
    """Returns `embedding` float32 (B, D), unnormalised, as the network gives it."""

    output_names = ("embedding",)

    def __init__(self, model: nn.Module, normalize: Normalize) -> None:
        super().__init__(normalize)
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        return (self.model(self.normalize(image)),)
