"""Vision transformers of Hugging Face transformers that classify: ViT, DeiT, and DINOv2 with and without registers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dlcv.train.attention.walk import Walk

_BASES = {  # where a classifier keeps its network
    "ViTForImageClassification": "vit",
    "DeiTForImageClassification": "deit",
    "DeiTForImageClassificationWithTeacher": "deit",
    "Dinov2ForImageClassification": "dinov2",
    "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def refusal(model: nn.Module) -> str | None:
    """Return why `walk` does not support a model, or None if it does. The library is not imported for it."""
    kind = type(model)
    if not kind.__module__.startswith("transformers.models.") or kind.__name__ not in _BASES:
        return "it is not a ViT, DeiT or DINOv2 of transformers that classifies"
    layers = _layers(_base(model))
    if not layers or not all(hasattr(layers[0].attention, name) for name in _PROJECTIONS):
        return "this version of transformers builds its layers in another way"
    return None


def walk(model: Any, pixels: Tensor) -> Walk:
    """Run the layers one by one, to get the attention weights. pixels: normalised float32 (B, C, H, W)."""
    base = _base(model)
    tokens = base.embeddings(pixels)
    averages = []
    weights = tokens  # of the last layer, after the loop
    for layer in _layers(base):
        before, after, scales = _parts(layer)
        change, weights = _attend(layer.attention, before(tokens))
        averages.append(weights.mean(dim=1))
        tokens = tokens + scales[0](change)
        tokens = tokens + scales[1](layer.mlp(after(tokens)))
    return Walk(
        tokens=tokens,
        averages=tuple(averages),
        weights=weights,
        prefix_tokens=_prefix_tokens(base),
        grid=_grid(base, pixels),
    )


def head(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (B, classes) and embedding (B, D) from the tokens (B, N, d) that `walk` returns.

    The embedding is the input of the last linear layer: the class token after the last norm; of DINOv2, followed by the
    mean of the patches; of a DeiT with two heads, the mean of their tokens.
    """
    base = _base(model)
    tokens = base.layernorm(tokens)
    if hasattr(model, "distillation_classifier"):
        logits = model.cls_classifier(tokens[:, 0]) + model.distillation_classifier(tokens[:, 1])
        return logits / 2, tokens[:, :2].mean(dim=1)
    embedding = tokens[:, 0]
    if "Dinov2" in type(model).__name__:
        patches = tokens[:, _prefix_tokens(base) :]
        embedding = torch.cat([embedding, patches.mean(dim=1)], dim=1)
    return model.classifier(embedding), embedding


def _base(model: Any) -> Any:
    return getattr(model, _BASES[type(model).__name__])


def _layers(base: Any) -> Any:
    return base.encoder.layer if hasattr(base, "encoder") else getattr(base, "layers", ())


def _parts(layer: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    """Return a layer's norms before attention and before its MLP, and what scales what each of them adds."""
    if hasattr(layer, "layer_scale1"):
        return layer.norm1, layer.norm2, (layer.layer_scale1, layer.layer_scale2)
    return layer.layernorm_before, layer.layernorm_after, (nn.Identity(), nn.Identity())


def _prefix_tokens(base: Any) -> int:
    embeddings = base.embeddings
    if hasattr(embeddings, "distillation_token"):
        return 2
    registers = getattr(embeddings, "register_tokens", None)
    return 1 if registers is None else 1 + registers.shape[1]


def _grid(base: Any, pixels: Tensor) -> tuple[int, int]:
    """Return (h, w) in patches. DINOv2 takes images of other sizes than that of its position embeddings."""
    height, width = base.embeddings.patch_embeddings.patch_size
    return pixels.shape[2] // height, pixels.shape[3] // width


def _attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the self-attention for tokens (B, N, D), and its weights (B, heads, N, N)."""
    B, N, _ = tokens.shape
    queries, keys, values = (
        projection(tokens).reshape(B, N, -1, attention.head_dim).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (queries @ keys.transpose(2, 3) * attention.scaling).softmax(dim=3)
    return attention.o_proj((weights @ values).transpose(1, 2).flatten(2)), weights
