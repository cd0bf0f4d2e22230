"""The attention of vision transformers, by computation: no hooks, so that export can trace it.

One file a family of networks: `refusal(model)` says why a model is none of it, or nothing; `walk(model, pixels)`
goes through its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from dlcv.train.attention import timm_vit, torchvision_vit
from dlcv.train.attention.walk import Walk

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES: tuple[ModuleType, ...] = (timm_vit, torchvision_vit)


def walker_for(model: nn.Module) -> Callable[[Tensor], Walk] | None:
    """Return what walks through a model, from normalised float32 images (B, 3, H, W); None if it is no such ViT."""
    for family in FAMILIES:
        if family.refusal(model) is None:
            return partial(family.walk, model)
    return None


__all__ = ["FAMILIES", "Walk", "walker_for"]
