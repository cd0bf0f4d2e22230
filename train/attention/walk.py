"""Tokens and attention weights of a vision transformer's forward pass, and attention rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_CLASS_TOKEN = 0
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The result of a forward pass over a batch of images. The class token is token 0.

    tokens: float (B, N, D) after the last block, before the last norm.
    averages: (B, N, N) of each layer, means over the heads, first layer first, rows sum to 1.
    weights: (B, heads, N, N) of the last layer.
    prefix_tokens: number of tokens before the patches. grid: (h, w) in patches.
    """

    tokens: Tensor
    averages: tuple[Tensor, ...]
    weights: Tensor
    prefix_tokens: int
    grid: tuple[int, int]

    def attention(self) -> Tensor:
        """Return the last layer's attention of the class token to the patches, (B, heads, h, w)."""
        patches = self.weights[:, :, _CLASS_TOKEN, self.prefix_tokens :]
        return torch.unflatten(patches, 2, self.grid)

    def rollout(self) -> Tensor:
        """Return the class token's attention rollout, (B, h, w) in 0..1: see `class_token_rollout`."""
        return class_token_rollout(self.averages, prefix_tokens=self.prefix_tokens, grid=self.grid)


def class_token_rollout(
    attentions: Sequence[Tensor], *, prefix_tokens: int, grid: tuple[int, int]
) -> Tensor:
    """Return the attention rollout of the class token: (B, h, w) in 0..1, 1 at the strongest patch.

    Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928: the product over the layers of 0.5 A + 0.5 I,
    where A is the mean over the heads. Only the class token's row is needed, so a row vector is multiplied
    through the layers from the last to the first: O(L N^2) instead of O(L N^3).

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
