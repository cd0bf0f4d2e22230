"""Vision transformers of timm with a class token (ViT, DeiT, our `vit_conv_stem`)."""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dlcv.train.attention.walk import Walk


def refusal(model: nn.Module) -> str | None:
    """Return why `walk` does not support a model, or None if it does."""
    if not isinstance(model, VisionTransformer):
        return "it is not timm's VisionTransformer"
    if model.cls_token is None or model.global_pool != "token" or model.attn_pool is not None:
        return "its head does not see a class token"
    for block in model.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            return f"it has blocks of another kind ({type(block).__name__})"
    return None


def walk(model: Any, pixels: Tensor) -> Walk:
    """Run the blocks one by one, to get the attention weights that timm's fused kernels do not return.

    pixels: normalised float32 (B, 3, H, W).
    """
    tokens = model.patch_embed(pixels)
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(tokens)))
    averages = []
    weights = tokens  # of the last layer, after the loop
    for block in model.blocks:
        change, weights = _attend(block.attn, block.norm1(tokens))
        averages.append(weights.mean(dim=1))
        tokens = tokens + block.ls1(change)
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return Walk(
        tokens=tokens,
        averages=tuple(averages),
        weights=weights,
        prefix_tokens=model.num_prefix_tokens,
        grid=tuple(model.patch_embed.grid_size),
    )


def _attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output of timm's `Attention` for tokens (B, N, D), and its weights (B, heads, N, N)."""
    B, N, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(B, N, 3, attention.num_heads, attention.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D / heads)
    queries, keys = attention.q_norm(queries) * attention.scale, attention.k_norm(keys)
    weights = (queries @ keys.transpose(2, 3)).softmax(dim=3)
    mixed = attention.norm((weights @ values).transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:  # newer timm only
        mixed = mixed * attention.gate(tokens).sigmoid()
    return attention.proj(mixed), weights
