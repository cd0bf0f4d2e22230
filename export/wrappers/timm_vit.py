"""Wrapper for timm vision transformers with a class token (ViT, DeiT): adds attention and rollout."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.runtime.bundle.schema import Activation
from dlcv.train.attention.timm_vit import refusal, walk


@final
class TimmVitWrapper(Wrapper):
    """Runs the blocks one by one to get the attention weights that timm's fused kernels do not return.

    `embedding` is the input of the head: the class token after the last norm (of a distilled DeiT, the mean of
    both tokens). `attention` is the last layer's, class token to patches.
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
        tokens = self.model.norm(walked.tokens)
        probabilities = self.probabilities(self.model.forward_head(tokens))
        embedding = self.model.forward_head(tokens, pre_logits=True)
        return probabilities, embedding, walked.rollout(), walked.attention()
