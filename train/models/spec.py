"""The result of building a model: the network, and the part of it that takes pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
    backbone: the part of `network` that a recipe's `weights` are loaded into, strictly.
    unused_weights: prefixes of tensors in the weights file that the backbone does not need.
    weights_prefix: prefix of the backbone's tensor names in the weights file.
    head: prefixes of the backbone's tensors that depend on the classes, if any; `pretrained` weights are for
        other classes and are loaded without them.
    pretrained: downloads weights, named as in a weights file.
    segments: whether it gives a class for each pixel.
    network_head: prefixes of the network's tensors that depend on the classes, where a weights file may also be of
        the whole network instead of the backbone.
    files: what a checkpoint must hold besides, by name, to build the network again.
    """

    network: nn.Module
    backbone: nn.Module
    unused_weights: tuple[str, ...] = ()
    weights_prefix: str = ""
    head: tuple[str, ...] = ()
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None
    segments: bool = False
    network_head: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def backbone_names(spec: ModelSpec) -> list[str]:
    """Return the names of the backbone's parameters in the network, without its head's."""
    inside = {id(p): name for name, p in spec.backbone.named_parameters()}
    return [
        name
        for name, p in spec.network.named_parameters()
        if id(p) in inside and not (spec.head and inside[id(p)].startswith(spec.head))
    ]


def without_head(spec: ModelSpec, *, name: str) -> ModelSpec:
    """Return the same network without its head: it returns the head's input, an embedding (B, D).

    Weights of the whole network can still be loaded; those of its head are skipped. name: of the model, for the
    error message.

    Raises:
        RecipeError: the model is not a backbone with a head on it.
    """
    heads = [prefix.rstrip(".") for prefix in spec.head]
    there = [head for head in heads if head in dict(spec.network.named_modules())]
    if spec.segments or spec.backbone is not spec.network or not there:
        raise RecipeError(
            f"model {name} is not a classifier that ends in a head, so it gives no embedding; take another,"
            " such as torchvision:resnet50"
        )
    for head in there:
        spec.network.set_submodule(head, nn.Identity())
    return replace(spec, head=(), unused_weights=(*spec.unused_weights, *spec.head))
