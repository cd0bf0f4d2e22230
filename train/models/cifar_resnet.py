"""The CIFAR ResNet of He et al. 2015 (https://arxiv.org/abs/1512.03385, section 4.2).

Widths 16, 32, 64; `n` basic blocks in each of three stages, so 6n + 2 layers; parameter-free
shortcuts ("option A"). Parameter names are those of akamaster/pytorch_resnet_cifar10, whose
published weights load strictly.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dlcv.train.models.spec import ModelSpec

_WIDTHS = (16, 32, 64)
_HEAD = ("linear.",)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters. (B, in, H, W) to (B, out, H/s, W/s)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.channel_pad = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.channel_pad == 0:
            return x
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, self.channel_pad, self.channel_pad))


class CifarResNet(nn.Module):
    """Image classifier for 32x32 inputs: normalised float (B, 3, H, W) to logits (B, classes).

    With `stages=2` or less there is no classifier, only `features`.
    """

    def __init__(self, blocks_per_stage: int, *, num_classes: int = 10, stages: int = 3) -> None:
        super().__init__()
        self.stages = stages
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        in_channels = _WIDTHS[0]
        for index, width in enumerate(_WIDTHS[:stages]):
            stage = _stage(in_channels, width, blocks=blocks_per_stage, stride=2 if index else 1)
            self.add_module(f"layer{index + 1}", stage)
            in_channels = width
        self.num_features = in_channels
        if stages == len(_WIDTHS):
            self.linear = nn.Linear(in_channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> Tensor:
        """Return the last stage's maps: (B, 16 * 2^(stages-1), H / 2^(stages-1), W / 2^(stages-1))."""
        x = F.relu(self.bn1(self.conv1(x)))
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return x

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled embedding, float (B, 64), the input of the classifier."""
        return self.features(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.embed(x))
        return logits


def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride=stride)
    rest = [BasicBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


def resnet20(num_classes: int) -> ModelSpec:
    """ResNet-20: .27 M parameters."""
    network = CifarResNet(3, num_classes=num_classes)
    return ModelSpec(network=network, backbone=network, head=_HEAD)


def resnet32(num_classes: int) -> ModelSpec:
    """ResNet-32: .46 M parameters."""
    network = CifarResNet(5, num_classes=num_classes)
    return ModelSpec(network=network, backbone=network, head=_HEAD)
