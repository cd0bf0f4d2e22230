"""What building a model gives: the network, and which part of it takes pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


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
