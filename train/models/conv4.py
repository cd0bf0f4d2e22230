"""Conv-4, the small network of few-shot papers: four 3x3 convolutions of 64 channels.

Snell et al. 2017, https://arxiv.org/abs/1703.05175, appendix. The paper pools after every convolution; on small
images that leaves a single pixel, so here `pools` says after how many convolutions to pool.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from dlcv.train.models.spec import ModelSpec

_BLOCKS, _POOL = 4, 2
_LEAST_SIDE = 4  # smallest side of the last map in pixels, if `pools` is not given


class Conv4(nn.Module):
    """Image classifier: normalised float (B, 3, S, S) to logits (B, classes)."""

    def __init__(self, num_classes: int, *, image_size: int, width: int, pools: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, side = 3, image_size
        for number in range(1, _BLOCKS + 1):
            layers[f"conv{number}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"norm{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{number}"] = nn.ReLU()
            if number <= pools:
                layers[f"pool{number}"] = nn.MaxPool2d(_POOL)
                side //= _POOL
            channels = width
        layers["flatten"] = nn.Flatten()
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels * side * side, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def conv4(
    num_classes: int, *, image_size: int = 84, width: int = 64, pools: int | None = None
) -> ModelSpec:
    """Build the network for images of one size.

    pools: None for as many as leave 4 pixels: 4 for 84 pixels (1,600 features), 3 for 32 (1,024).

    Raises:
        ValueError: more pools than convolutions, or more than the image has pixels for.
    """
    pools = _fitting_pools(image_size) if pools is None else pools
    if not 0 <= pools <= _BLOCKS or image_size < _POOL**pools:
        raise ValueError(f"{pools} pools do not fit {_BLOCKS} convolutions on {image_size} pixels")
    network = Conv4(num_classes, image_size=image_size, width=width, pools=pools)
    return ModelSpec(network=network, backbone=network, head=("classifier.",))


def _fitting_pools(image_size: int) -> int:
    sides = (image_size // _POOL**pools for pools in range(1, _BLOCKS + 1))
    return sum(side >= _LEAST_SIDE for side in sides)
