"""Segmentation networks: torchvision's own, and its heads on a dilated MobileNetV2.

LR-ASPP: Howard et al. 2019 (https://arxiv.org/abs/1905.02244, section 6.4). DeepLabV3: Chen et al. 2017
(https://arxiv.org/abs/1706.05587). MobileNetV2: Sandler et al. 2018 (https://arxiv.org/abs/1801.04381). The
classes are torchvision's; only the choice of layers is ours. All return `{"out": logits}` at the size of the
input; with an auxiliary classifier also `aux` of the same size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import mobilenet_v2, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from dlcv.train.models.published import torchvision_state
from dlcv.train.models.spec import ModelSpec

_LAST_LAYER = 17  # index in `features`; 18 would be the 1x1 convolution to 1,280 channels
_HIGH_CHANNELS = 320
_LOW_LAYERS = {4: (3, 24), 8: (6, 32)}  # stride: (index in `features`, channels)
_FIRST_STRIDE_32_LAYER = 14
_AUX_LAYER, _AUX_CHANNELS = 13, 96
# Without the prefix "features.", which the sliced backbone does not have.
_UNUSED_WEIGHTS = ("features.18.", "classifier.")

_FCN_HEAD = ("classifier.4.", "aux_classifier.4.")  # of FCN and DeepLabV3
_LRASPP_HEAD = ("classifier.low_classifier.", "classifier.high_classifier.")


def lraspp_mobilenet_v2(
    num_classes: int, *, low_stride: int = 8, inter_channels: int = 128
) -> ModelSpec:
    """LR-ASPP at output stride 16 with a skip from stride `low_stride` (4 or 8)."""
    if low_stride not in _LOW_LAYERS:
        raise ValueError(f"low_stride must be one of {sorted(_LOW_LAYERS)}, not {low_stride}")
    layer, channels = _LOW_LAYERS[low_stride]
    backbone = _dilated_backbone({str(layer): "low", str(_LAST_LAYER): "high"})
    network = LRASPP(
        backbone,
        low_channels=channels,
        high_channels=_HIGH_CHANNELS,
        num_classes=num_classes,
        inter_channels=inter_channels,
    )
    return _spec(network, backbone)


def deeplabv3_mobilenet_v2(num_classes: int, *, aux: bool = False) -> ModelSpec:
    """DeepLabV3 at output stride 16, without a skip.

    aux: an auxiliary classifier on the last layer before the dilated ones, whose loss a recipe weighs by `loss.aux`.
    """
    layers = {str(_AUX_LAYER): "aux"} if aux else {}
    backbone = _dilated_backbone({**layers, str(_LAST_LAYER): "out"})
    head = DeepLabHead(_HIGH_CHANNELS, num_classes, atrous_rates=(6, 12, 18))
    auxiliary = FCNHead(_AUX_CHANNELS, num_classes) if aux else None
    return _spec(DeepLabV3(backbone, head, auxiliary), backbone)


def deeplabv3_resnet50(num_classes: int, *, aux: bool = True, coco: bool = False) -> ModelSpec:
    """DeepLabV3 on ResNet-50 at output stride 8, torchvision's own.

    aux: an auxiliary classifier on the third stage, whose loss a recipe weighs by `loss.aux`. coco: weights
    are those of the whole network, from COCO; otherwise they are ImageNet's, of the backbone.
    """
    network: Any = segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=aux
    )
    if (
        not coco
    ):  # the ImageNet weights that torchvision, too, starts its segmentation networks from
        imagenet = partial(torchvision_state, "resnet50", weights="IMAGENET1K_V1")
        return ModelSpec(
            network=network,
            backbone=network.backbone,
            unused_weights=("fc.",),
            pretrained=imagenet,
        )
    return ModelSpec(
        network=network,
        backbone=network,
        head=_FCN_HEAD,
        unused_weights=() if aux else ("aux_classifier.",),
        pretrained=partial(torchvision_state, "deeplabv3_resnet50"),
    )


def torchvision_segmenter(num_classes: int, *, name: str, **options: Any) -> ModelSpec:
    """Build a segmenter of torchvision, such as `fcn_resnet50`, `deeplabv3_mobilenet_v3_large`, `lraspp_mobilenet_v3_large`.

    options: of torchvision's builder; aux_loss adds an auxiliary classifier, whose loss a recipe weighs by `loss.aux`.
    Weights are those of the whole network, from COCO.
    """
    network = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes, **options
    )
    return ModelSpec(
        network=network,
        backbone=network,
        head=_LRASPP_HEAD if isinstance(network, LRASPP) else _FCN_HEAD,
        unused_weights=() if options.get("aux_loss") else ("aux_classifier.",),
        pretrained=partial(torchvision_state, name),
        segments=True,
    )


def _spec(network: nn.Module, backbone: nn.Module) -> ModelSpec:
    return ModelSpec(
        network=network,
        backbone=backbone,
        unused_weights=_UNUSED_WEIGHTS,
        weights_prefix="features.",
        pretrained=partial(torchvision_state, "mobilenet_v2"),
    )


def _dilated_backbone(layers: dict[str, str]) -> Any:
    """MobileNetV2 up to `features[17]`, its last stride of 2 turned into a dilation of 2."""
    features = mobilenet_v2(weights=None).features
    for index in range(_FIRST_STRIDE_32_LAYER, _LAST_LAYER + 1):
        for module in features[index].modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                first = index == _FIRST_STRIDE_32_LAYER
                module.stride = (1, 1)
                module.dilation = (1, 1) if first else (2, 2)
                module.padding = (1, 1) if first else (2, 2)
    return IntermediateLayerGetter(features, return_layers=layers)
