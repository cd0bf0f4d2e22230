"""Classifiers of timm or torchvision by name, with a head for the recipe's classes. torchvision's segmenters go to theirs.

For example `timm:efficientnet_b4`, `torchvision:resnet18`. Parameter names are the library's own, so its
weights load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torchvision
from torch import nn

from dlcv.train.models.published import timm_state, torchvision_state
from dlcv.train.models.segmenters import torchvision_segmenter
from dlcv.train.models.spec import ModelSpec


def timm_classifier(
    num_classes: int, *, name: str, head: Mapping[str, Any] | None = None, **options: Any
) -> ModelSpec:
    """Build a timm classifier (Wightman 2019, https://github.com/huggingface/pytorch-image-models).

    head: arguments of `mlp_head`, which replaces the single linear layer. options: of timm's builder, such as
    img_size. Attention is not fused, so that its weights are available and it can be exported.

    Raises:
        ValueError: timm has no such model, or it does not end in one linear layer.
    """
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}; timm.list_models() names them")
    network = timm.create_model(name, num_classes=num_classes, **options)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    pretrained = partial(timm_state, name, **options)
    return _with_head(network, num_classes, head=head, pretrained=pretrained)


def torchvision_network(num_classes: int, *, name: str, **options: Any) -> ModelSpec:
    """Build a classifier or segmenter of torchvision. options: as for the one or the other.

    Raises:
        ValueError: torchvision has neither of this name, or no head fits.
    """
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        return torchvision_segmenter(num_classes, name=name, **options)
    return torchvision_classifier(num_classes, name=name, **options)


def torchvision_classifier(
    num_classes: int, *, name: str, head: Mapping[str, Any] | None = None, **options: Any
) -> ModelSpec:
    """Build a torchvision classifier. head, options: as for `timm_classifier`.

    Raises:
        ValueError: torchvision has no such classifier, or it does not end in one linear layer.
    """
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"torchvision has no classifier or segmenter {name!r}; torchvision.models.list_models() names them"
        )
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    pretrained = partial(torchvision_state, name)
    return _with_head(network, num_classes, head=head, pretrained=pretrained)


def mlp_head(
    in_features: int, num_classes: int, *, hidden: Sequence[int] = (), dropout: float = 0.0
) -> nn.Sequential:
    """Return linear layers of `hidden` widths, each followed by ReLU and dropout, and one to the classes.

    (B, in_features) to (B, num_classes).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout)]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, num_classes))


def _with_head(
    network: nn.Module, num_classes: int, *, head: Mapping[str, Any] | None, pretrained: Any
) -> ModelSpec:
    linears = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    name, last = linears[-1] if linears else ("", None)
    if last is None or last.out_features != num_classes:
        raise ValueError("it does not end in one linear layer, so no head fits")
    if head is not None:
        network.set_submodule(name, mlp_head(last.in_features, num_classes, **head))
    return ModelSpec(network=network, backbone=network, head=(f"{name}.",), pretrained=pretrained)
