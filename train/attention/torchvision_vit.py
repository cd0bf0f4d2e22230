"""Vision transformers of torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from dlcv.train.attention.walk import Walk

_PREFIX_TOKENS = 1


def refusal(model: nn.Module) -> str | None:
    """Return why `walk` does not support a model, or None if it does."""
    is_one = isinstance(model, VisionTransformer)
    return None if is_one else "it is not torchvision's VisionTransformer"


def walk(model: Any, pixels: Tensor) -> Walk:
    """Run the encoder's layers one by one. pixels: normalised float32 (B, 3, H, W)."""
    patches = model._process_input(pixels)
    class_token = model.class_token.expand(patches.shape[0], -1, -1)
    tokens = torch.cat([class_token, patches], dim=1) + model.encoder.pos_embedding
    averages = []
    weights = tokens  # of the last layer, after the loop
    for layer in model.encoder.layers:
        change, weights = _attend(layer.self_attention, layer.ln_1(tokens))
        averages.append(weights.mean(dim=1))
        tokens = tokens + change
        tokens = tokens + layer.mlp(layer.ln_2(tokens))
    side = model.image_size // model.patch_size
    return Walk(
        tokens=tokens,
        averages=tuple(averages),
        weights=weights,
        prefix_tokens=_PREFIX_TOKENS,
        grid=(side, side),
    )


def _attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the self-attention of `nn.MultiheadAttention` for tokens (B, N, D), and its weights (B, heads, N, N).

    Written out, because PyTorch's own function takes another path for inference, which export cannot trace.
    """
    B, N, D = tokens.shape
    heads = attention.num_heads
    qkv = nn.functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = qkv.reshape(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (queries * (D // heads) ** -0.5 @ keys.transpose(2, 3)).softmax(dim=3)
    return attention.out_proj((weights @ values).transpose(1, 2).flatten(2)), weights
