"""Attention weights of vision transformers, computed without hooks, so that export can trace them.

One file per family of networks: `refusal(model)` returns why a model is not supported, or None; `walk(model,
pixels)` runs its blocks and keeps the attention weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from dlcv.train.attention import timm_vit, torchvision_vit, transformers_vit
from dlcv.train.attention.walk import Walk

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES: tuple[ModuleType, ...] = (timm_vit, torchvision_vit, transformers_vit)


def walker_for(model: nn.Module) -> Callable[[Tensor], Walk] | None:
    """Return the walk function for a model, or None if it is not a supported ViT.

    The function takes normalised float32 images (B, 3, H, W).
    """
    for family in FAMILIES:
        if family.refusal(model) is None:
            return partial(family.walk, model)
    return None


__all__ = ["FAMILIES", "Walk", "walker_for"]
