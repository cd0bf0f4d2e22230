"""Fully convolutional networks: the sum of class scores from several depths of a classifier.

Long, Shelhamer, Darrell 2015 (https://arxiv.org/abs/1411.4038). A small head scores the coarsest maps, at
stride 32. FCN32s up-samples these scores at once. FCN16s, 8s and 4s up-sample by two, add the scores of the
next finer maps, and so on; the last up-sampling is to the size of the input. FCN4s goes one step beyond the
paper. All return `{"out": logits}`, (B, classes, H, W), at any height and width from 32 up.

Two differences from the paper: convolutions are padded, instead of padding the image by 100 pixels and cropping
scores; and up-sampling is bilinear interpolation, not a transposed convolution initialised to it (the paper
found that learning the last of these brings nothing, and keeps it fixed).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, vgg16, vgg16_bn
from torchvision.models._utils import IntermediateLayerGetter

from dlcv.train.models.published import torchvision_state
from dlcv.train.models.spec import ModelSpec

_STRIDES = (32, 16, 8, 4)
# stride: (index in `features`, channels)
_VGG16_POOLS = {4: (9, 128), 8: (16, 256), 16: (23, 512), 32: (30, 512)}
_VGG16_BN_POOLS = {4: (13, 128), 8: (23, 256), 16: (33, 512), 32: (43, 512)}
_MOBILENET_LAYERS = {4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (17, 320)}


class Fcn(nn.Module):
    """A backbone with maps at several strides, a head on the coarsest, and a 1x1 scoring layer on each finer one."""

    def __init__(
        self, backbone: nn.Module, head: nn.Module, *, channels: dict[int, int], num_classes: int
    ) -> None:
        """Build the layers. channels: of the finer maps by stride, from coarse to fine."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.scores = nn.ModuleDict(
            {str(stride): nn.Conv2d(width, num_classes, 1) for stride, width in channels.items()}
        )
        layer: Any
        for layer in self.scores.values():  # only coarse scores at first, as in the paper
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        scores = self.head(maps["32"])
        for stride, layer in self.scores.items():
            finer = layer(maps[stride])
            scores = finer + _resized(scores, finer.shape[-2:])
        return {"out": _resized(scores, x.shape[-2:])}


def fcn_vgg16(
    num_classes: int,
    *,
    stride: int = 32,
    hidden: int = 4096,
    dropout: float = 0.5,
    batch_norm: bool = False,
) -> ModelSpec:
    """FCN on VGG16 (Simonyan, Zisserman 2015, https://arxiv.org/abs/1409.1556), of stride 32, 16, 8 or 4.

    hidden: channels of the two convolutions that replace VGG16's linear layers, with random weights.
    batch_norm: torchvision's variant with batch normalisation, which trains without ImageNet weights.
    """
    make, layers = (vgg16_bn, _VGG16_BN_POOLS) if batch_norm else (vgg16, _VGG16_POOLS)
    head = nn.Sequential(
        nn.Conv2d(512, hidden, 7, padding=3),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(hidden, num_classes, 1),
    )
    features = make(weights=None).features
    spec = _spec(features, head, layers=layers, stride=stride, num_classes=num_classes)
    return replace(spec, pretrained=partial(torchvision_state, make.__name__))


def fcn_mobilenet_v2(
    num_classes: int, *, stride: int = 32, hidden: int = 128, dropout: float = 0.1
) -> ModelSpec:
    """FCN on MobileNetV2 (Sandler et al. 2018), for small machines."""
    head = nn.Sequential(
        nn.Conv2d(320, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(hidden, num_classes, 1),
    )
    features = mobilenet_v2(weights=None).features
    spec = _spec(features, head, layers=_MOBILENET_LAYERS, stride=stride, num_classes=num_classes)
    return replace(spec, pretrained=partial(torchvision_state, "mobilenet_v2"))


def _spec(
    features: Any,
    head: nn.Module,
    *,
    layers: dict[int, tuple[int, int]],
    stride: int,
    num_classes: int,
) -> ModelSpec:
    if stride not in _STRIDES:
        raise ValueError(f"stride must be one of {', '.join(map(str, _STRIDES))}, not {stride}")
    used = [s for s in _STRIDES if s >= stride]
    backbone = IntermediateLayerGetter(features, {str(layers[s][0]): str(s) for s in used[::-1]})
    channels = OrderedDict((s, layers[s][1]) for s in used[1:])
    network = Fcn(backbone, head, channels=channels, num_classes=num_classes)
    last = layers[32][0]
    unused = [f"features.{i}." for i in range(last + 1, len(features))]
    return ModelSpec(
        network=network,
        backbone=backbone,
        unused_weights=(*unused, "classifier."),
        weights_prefix="features.",
    )


def _resized(scores: Tensor, size: Any) -> Tensor:
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
