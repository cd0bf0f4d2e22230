"""Small CNNs for 32x32 images: three 5x5 convolutions, two linear layers; 390,410 parameters for 10 classes.

Options add batch normalisation after every layer with weights, or dropout after every pooling. Krizhevsky's
cuda-convnet "quick" networks of 2012 have this shape; widths are doubled here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, cast

from torch import Tensor, nn

from dlcv.train.models.spec import ModelSpec

_WIDTHS = (32, 64, 128)
_KERNEL, _PADDING, _POOL = 5, 2, 2
_HIDDEN = 64
_HEAD = ("layers.linear2.", "layers.norm5.")


class SmallCnn(nn.Module):
    """Image classifier: normalised float (B, 3, S, S) to logits (B, classes); S is a multiple of 8."""

    def __init__(
        self, num_classes: int, *, image_size: int, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for number, width in enumerate(_WIDTHS, start=1):
            layers[f"conv{number}"] = nn.Conv2d(channels, width, _KERNEL, padding=_PADDING)
            if batch_norm:
                layers[f"norm{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"pool{number}"] = nn.MaxPool2d(_POOL)
            if dropout:
                layers[f"drop{number}"] = nn.Dropout(dropout)
            channels = width
        side = image_size // _POOL ** len(_WIDTHS)
        layers["flatten"] = nn.Flatten()
        layers["linear1"] = nn.Linear(channels * side * side, _HIDDEN)
        if batch_norm:
            layers["norm4"] = nn.BatchNorm1d(_HIDDEN)
        layers["relu4"] = nn.ReLU()
        layers["linear2"] = nn.Linear(_HIDDEN, num_classes)
        if batch_norm:
            layers["norm5"] = nn.BatchNorm1d(num_classes)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def small_cnn(
    num_classes: int,
    *,
    image_size: int = 32,
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: Literal["torch", "kaiming_uniform"] = "torch",
) -> ModelSpec:
    """Build the network. init: PyTorch's own, or He et al. 2015 (https://arxiv.org/abs/1502.01852) with zero biases.

    PyTorch's own is uniform too, with a gain for leaky ReLU of slope √5.
    """
    if image_size < 8 or image_size % 8:
        raise ValueError(f"image_size must be a multiple of 8, not {image_size}")
    network = SmallCnn(num_classes, image_size=image_size, batch_norm=batch_norm, dropout=dropout)
    if init == "kaiming_uniform":
        network.apply(_kaiming_uniform)
    elif init != "torch":
        raise ValueError(f"init must be torch or kaiming_uniform, not {init!r}")
    return ModelSpec(network=network, backbone=network, head=_HEAD)


def _kaiming_uniform(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        nn.init.zeros_(cast("Tensor", module.bias))
