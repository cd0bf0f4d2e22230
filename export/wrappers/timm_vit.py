"""Vision transformers of timm with a class token (ViT, DeiT): attention and rollout by computation."""

from __future__ import annotations

from typing import Any, final

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.export.wrappers.maps import class_token_rollout

_CLASS_TOKEN = 0


@final
class TimmVitWrapper(Wrapper):
    """Walks the blocks, so that the attention weights that timm's fused kernels hide are outputs.

    `embedding` is what the head sees: the class token after the last norm (of a distilled DeiT, the
    mean of both tokens). `attention` is the last layer's, class token to patches.
    """

    output_names = ("probabilities", "embedding", "explanation", "attention")

    def __init__(self, model: nn.Module, normalize: Normalize) -> None:
        super().__init__(normalize)
        self.model: Any = _require_plain(model)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, 3)."""
        model = self.model
        tokens = model.patch_embed(self.normalize(image))
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(tokens)))
        averages = []
        weights = tokens  # of the last layer, after the loop
        for block in model.blocks:
            change, weights = _attend(block.attn, block.norm1(tokens))
            averages.append(weights.mean(dim=1))
            tokens = tokens + block.ls1(change)
            tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        tokens = model.norm(tokens)
        prefix, grid = model.num_prefix_tokens, tuple(model.patch_embed.grid_size)
        probabilities = model.forward_head(tokens).softmax(dim=1)
        embedding = model.forward_head(tokens, pre_logits=True)
        explanation = class_token_rollout(averages, prefix_tokens=prefix, grid=grid)
        attention = weights[:, :, _CLASS_TOKEN, prefix:]
        return probabilities, embedding, explanation, attention.unflatten(2, grid)


def _attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return timm's `Attention` of tokens (B, N, D), and its weights (B, heads, N, N)."""
    B, N, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(B, N, 3, attention.num_heads, attention.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D / heads)
    queries, keys = attention.q_norm(queries) * attention.scale, attention.k_norm(keys)
    weights = (queries @ keys.transpose(2, 3)).softmax(dim=3)
    mixed = attention.norm((weights @ values).transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:  # newer timm only
        mixed = mixed * attention.gate(tokens).sigmoid()
    return attention.proj(mixed), weights


def _require_plain(model: nn.Module) -> VisionTransformer:
    if not isinstance(model, VisionTransformer):
        raise Unwrappable("it is not timm's VisionTransformer")
    if model.cls_token is None or model.global_pool != "token" or model.attn_pool is not None:
        raise Unwrappable("its head does not see a class token")
    for block in model.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            raise Unwrappable(f"it has blocks of another kind ({type(block).__name__})")
    return model
