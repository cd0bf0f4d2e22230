"""The base of all wrappers: pixels in, named outputs out, around an unchanged model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from dlcv.export.writing import ExportedGraph
    from dlcv.runtime.bundle.schema import Activation


class Normalize(nn.Module):
    """Converts uint8 (B, H, W, C) to float32 (B, C, H, W), (x / 255 - mean) / std by channel.

    C is 3 of RGB, or 1 of greyscale. mean, std: in the order of the network's channels. is_bgr: the network takes blue
    first. The cast comes first, because TensorRT-RTX parses no other operation on a uint8 input. The rest is one
    multiplication and one subtraction by constants.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], *, is_bgr: bool = False
    ) -> None:
        super().__init__()
        self.is_bgr = is_bgr
        means = torch.tensor(mean, dtype=torch.float64).reshape(1, -1, 1, 1)
        stds = torch.tensor(std, dtype=torch.float64).reshape(1, -1, 1, 1)
        self.register_buffer("scale", (1 / (255 * stds)).float())
        self.register_buffer("shift", (means / stds).float())

    def forward(self, image: Tensor) -> Tensor:
        """Normalise. image: uint8 (B, H, W, C)."""
        # Contiguous, because a channels-last network would be exported with its own strides.
        pixels = image.float().permute(0, 3, 1, 2).contiguous()
        if self.is_bgr:
            pixels = pixels[:, [2, 1, 0]]
        return pixels * self.scale - self.shift

    @property
    def channels(self) -> int:
        """How many channels an image has: 3, or 1 of greyscale."""
        return self.scale.shape[1]


class Wrapper(nn.Module, ABC):
    """A module to export: `forward` takes pixels and returns the outputs named in `output_names`.

    Subclasses are final. They call the given model or use its parts, but never change it. activation: of the logits
    of classes.
    """

    output_names: tuple[str, ...]

    def __init__(self, normalize: Normalize, activation: Activation = "softmax") -> None:
        super().__init__()
        self.normalize = normalize
        self.activation = activation

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of classes, (B, classes), from their logits."""
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """The names of the finished graph's outputs."""
        return self.output_names

    def reference(self, image: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name, as the parity gate expects them of the graph. image: uint8 (B, H, W, C)."""
        return dict(zip(self.output_names, self(image), strict=True))

    def finished(self, graph: ExportedGraph) -> ExportedGraph:
        """Return the exported graph with the outputs that `forward` could not give; most wrappers have none."""
        return graph

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in the order of `output_names`. image: uint8 (B, H, W, C)."""


class Unwrappable(Exception):  # noqa: N818 - not an error until every wrapper has said so
    """The wrapper does not support the model. The message says why."""
