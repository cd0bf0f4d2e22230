"""What building a model gives: the network, and which part of it takes pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A freshly built network.

    network: takes normalised float images (B, 3, H, W).
    backbone: the part of `network` that `weights` in a recipe are loaded into, strictly.
    unused_weights: prefixes of tensors in the weights file that the backbone does without.
    weights_prefix: what the weights file puts before the backbone's own tensor names.
    """

    network: nn.Module
    backbone: nn.Module
    unused_weights: tuple[str, ...] = ()
    weights_prefix: str = ""
