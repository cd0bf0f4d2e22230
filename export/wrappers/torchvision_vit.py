"""Wrapper for torchvision vision transformers: adds attention and rollout."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.runtime.bundle.schema import Activation
from dlcv.train.attention.torchvision_vit import refusal, walk


@final
class TorchvisionVitWrapper(Wrapper):
    """Runs the encoder's layers one by one to get their attention weights.

    `embedding` is the input of the last linear layer. `attention` is the last layer's, class token to patches.
    """

    output_names = ("probabilities", "embedding", "explanation", "attention")

    def __init__(
        self, model: nn.Module, normalize: Normalize, activation: Activation = "softmax"
    ) -> None:
        super().__init__(normalize, activation)
        reason = refusal(model)
        if reason is not None:
            raise Unwrappable(reason)
        self.model: Any = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        walked = walk(self.model, self.normalize(image))
        embedding = self.model.heads[:-1](self.model.encoder.ln(walked.tokens)[:, 0])
        probabilities = self.probabilities(self.model.heads[-1](embedding))
        return probabilities, embedding, walked.rollout(), walked.attention()
