"""A classifier without its head: a backbone that gives features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from dlcv.runtime.errors import RecipeError
from dlcv.train.models import ModelSpec, build_model


def build_features(name: str, options: Mapping[str, Any] | None = None) -> ModelSpec:
    """Build a classifier by name with nothing in the place of its head: images to features (B, D).

    Weights files and published weights of the classifier still fit: those of its head are left out.

    Raises:
        RecipeError: no such model, or it names no head of its own.
    """
    spec = build_model(name, options, num_classes=2)  # the number goes with the head
    if len(spec.head) != 1:
        raise RecipeError(
            f"model {name!r} names no head that could be left out; take conv4, timm:NAME or torchvision:NAME"
        )
    spec.network.set_submodule(spec.head[0].removesuffix("."), nn.Identity())
    return replace(spec, head=(), unused_weights=(*spec.unused_weights, *spec.head))
