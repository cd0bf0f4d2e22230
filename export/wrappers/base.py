"""The base of all wrappers: pixels in, named outputs out, around an unchanged model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Converts uint8 (B, H, W, 3) RGB to float32 (B, 3, H, W), (x / 255 - mean) / std by channel.

    The cast comes first, because TensorRT-RTX parses no other operation on a uint8 input. The rest is one
    multiplication and one subtraction by constants.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        means = torch.tensor(mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        stds = torch.tensor(std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * stds)).float())
        self.register_buffer("shift", (means / stds).float())

    def forward(self, image: Tensor) -> Tensor:
        """Normalise. image: uint8 (B, H, W, 3)."""
        # Contiguous, because a channels-last network would be exported with its own strides.
        return image.float().permute(0, 3, 1, 2).contiguous() * self.scale - self.shift


class Wrapper(nn.Module, ABC):
    """A module to export: `forward` takes pixels and returns the outputs named in `output_names`.

    Subclasses are final. They call the given model or use its parts, but never change it.
    """

    output_names: tuple[str, ...]

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in the order of `output_names`. image: uint8 (B, H, W, 3)."""


class Unwrappable(Exception):  # noqa: N818 - not an error until every wrapper has said so
    """The wrapper does not support the model. The message says why."""
