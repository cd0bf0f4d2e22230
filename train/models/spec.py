"""What building a model gives: the network, and which part of it takes pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from dlcv.runtime.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


BACKBONE = "backbone"  # stands for the whole backbone in `freeze`


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A freshly built network.

    network: takes normalised float images (B, 3, H, W).
    backbone: the part of `network` that `weights` in a recipe are loaded into, strictly.
    unused_weights: prefixes of tensors in the weights file that the backbone does without.
    weights_prefix: what the weights file puts before the backbone's own tensor names.
    head: prefixes of the backbone's tensors that depend on the classes, where it has any; `pretrained`
        weights are of other classes and go without them.
    pretrained: downloads weights, named as in a weights file.
    """

    network: nn.Module
    backbone: nn.Module
    unused_weights: tuple[str, ...] = ()
    weights_prefix: str = ""
    head: tuple[str, ...] = ()
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None


def backbone_names(spec: ModelSpec) -> list[str]:
    """Return the names of the backbone's parameters in the network, without its head's."""
    inside = {id(p): name for name, p in spec.backbone.named_parameters()}
    return [
        name
        for name, p in spec.network.named_parameters()
        if id(p) in inside and not (spec.head and inside[id(p)].startswith(spec.head))
    ]


def without_head(spec: ModelSpec, *, name: str) -> ModelSpec:
    """Return the same network without its head: it gives what the head saw, an embedding (B, D).

    Weights of the whole network still fit: those of its head are left out. name: of the model, for the error.

    Raises:
        RecipeError: the model is not a backbone with a head on it.
    """
    heads = [prefix.rstrip(".") for prefix in spec.head]
    there = [head for head in heads if head in dict(spec.network.named_modules())]
    if spec.backbone is not spec.network or not there:
        raise RecipeError(
            f"model {name} is not a classifier that ends in a head, so it gives no embedding; take another,"
            " such as torchvision:resnet50"
        )
    for head in there:
        spec.network.set_submodule(head, nn.Identity())
    return replace(spec, head=(), unused_weights=(*spec.unused_weights, *spec.head))
