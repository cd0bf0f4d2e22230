"""Wrapper for vision transformers of Hugging Face transformers: adds attention and rollout."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from dlcv.export.sources.hf_network import TransformersNetwork
from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.runtime.bundle.schema import Activation
from dlcv.train.attention.transformers_vit import head, refusal, walk


@final
class TransformersVitWrapper(Wrapper):
    """Runs the layers one by one to get the attention weights that the library's kernels do not return.

    `embedding` is the input of the last linear layer (of a DeiT with two, the mean of theirs). `attention` is the last
    layer's, class token to patches.
    """

    output_names = ("probabilities", "embedding", "explanation", "attention")

    def __init__(
        self, model: nn.Module, normalize: Normalize, activation: Activation = "softmax"
    ) -> None:
        super().__init__(normalize, activation)
        if not isinstance(model, TransformersNetwork):
            raise Unwrappable("it is not a network of transformers")
        if model.crop is not None:
            raise Unwrappable("its maps would cover the middle of the image alone")
        reason = refusal(model.network)
        if reason is not None:
            raise Unwrappable(reason)
        self.network = model.network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        walked = walk(self.network, self.normalize(image))
        logits, embedding = head(self.network, walked.tokens)
        return self.probabilities(logits), embedding, walked.rollout(), walked.attention()
