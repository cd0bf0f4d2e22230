"""Maps that explain an answer, from tensors that the network computes anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-6


def class_activation_map(features: Tensor, weight: Tensor, logits: Tensor) -> Tensor:
    """Return the class activation map of the top class: (B, h, w) in 0..1, 1 where it is strongest.

    Zhou, Khosla, Lapedriza, Oliva, Torralba 2016, https://arxiv.org/abs/1512.04150. We drop the
    bias, keep what speaks for the class (ReLU) and divide by the maximum of each image.

    features: (B, C, h, w), whose mean over h and w the last linear layer sees.
    weight: (classes, C) of that layer. logits: (B, classes).
    """
    _, C, h, w = features.shape
    top = weight[logits.argmax(dim=1)]  # (B, C)
    scores = top.unsqueeze(1) @ features.reshape(-1, C, h * w)  # (B, 1, h * w)
    return relative_to_maximum(scores.relu().reshape(-1, h, w))


def class_token_rollout(
    attentions: Sequence[Tensor], *, prefix_tokens: int, grid: tuple[int, int]
) -> Tensor:
    """Return the attention rollout of the class token: (B, h, w) in 0..1, 1 at the strongest patch.

    Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928: the product over the layers of
    0.5 A + 0.5 I, where A is the mean over the heads. Only the class token's row is wanted, so that
    a row vector goes through the layers from the last to the first: O(L N^2), not O(L N^3).

    attentions: (B, N, N) of each layer, first layer first, rows sum to 1; the class token is token 0.
    prefix_tokens: tokens before the patches. grid: (h, w) in patches.
    """
    N = attentions[-1].shape[-1]
    row = torch.tensor([[[1.0] + [0.0] * (N - 1)]])  # the class token, (1, 1, N)
    for attention in reversed(attentions):
        row = 0.5 * (row @ attention) + 0.5 * row  # (B, 1, N)
    patches = row[:, 0, prefix_tokens:]
    return relative_to_maximum(patches.reshape(-1, *grid))


def relative_to_maximum(maps: Tensor) -> Tensor:
    """Divide each map (B, h, w) of values >= 0 by its maximum; a map of zeros stays so."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
