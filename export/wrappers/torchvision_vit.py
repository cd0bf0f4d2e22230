"""Vision transformers of torchvision: attention and rollout by computation."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.export.wrappers.maps import class_token_rollout

_PREFIX_TOKENS = 1


@final
class TorchvisionVitWrapper(Wrapper):
    """Walks the encoder's layers and asks each for its attention weights.

    `embedding` is what the last linear layer sees. `attention` is the last layer's, class token to
    patches.
    """

    output_names = ("probabilities", "embedding", "explanation", "attention")

    def __init__(self, model: nn.Module, normalize: Normalize) -> None:
        super().__init__(normalize)
        if not isinstance(model, VisionTransformer):
            raise Unwrappable("it is not torchvision's VisionTransformer")
        self.model: Any = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, 3)."""
        model = self.model
        patches = model._process_input(self.normalize(image))
        class_token = model.class_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + model.encoder.pos_embedding
        averages = []
        weights = tokens  # of the last layer, after the loop
        for layer in model.encoder.layers:
            change, weights = _attend(layer.self_attention, layer.ln_1(tokens))
            averages.append(weights.mean(dim=1))
            tokens = tokens + change
            tokens = tokens + layer.mlp(layer.ln_2(tokens))
        embedding = model.heads[:-1](model.encoder.ln(tokens)[:, 0])
        side = model.image_size // model.patch_size
        explanation = class_token_rollout(averages, prefix_tokens=_PREFIX_TOKENS, grid=(side, side))
        attention = weights[:, :, 0, _PREFIX_TOKENS:].unflatten(2, (side, side))
        return model.heads[-1](embedding).softmax(dim=1), embedding, explanation, attention


def _attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return `nn.MultiheadAttention` of tokens (B, N, D) to themselves, and its weights (B, heads, N, N).

    Written out: PyTorch's own function takes another path for inference, which export cannot trace.
    """
    B, N, D = tokens.shape
    heads = attention.num_heads
    qkv = nn.functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = qkv.reshape(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (queries * (D // heads) ** -0.5 @ keys.transpose(2, 3)).softmax(dim=3)
    return attention.out_proj((weights @ values).transpose(1, 2).flatten(2)), weights
