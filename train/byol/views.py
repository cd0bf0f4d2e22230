"""Two random views of every image of a batch, computed for the whole batch at once.

A batch needs a few operations instead of several per image, so that one core makes views as fast as another
trains on them: see `tests/train/byol/test_views.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dlcv.train.byol.recipe import ViewConfig
from dlcv.train.data.batches import Batch

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_RATIO = (3 / 4, 4 / 3)  # width to height of a random box
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class TwoViews:
    """Replaces images and labels by two views of each image: an `Augment`."""

    copies = 1

    def __init__(self, config: ViewConfig) -> None:
        self.config = config

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator, copy: Tensor) -> Batch:
        """Return two views of each image, uint8 (B, size, size, 3). images: uint8 (B, H, W, 3)."""
        return self.view(images, generator), self.view(images, generator)

    def view(self, images: Tensor, generator: Generator) -> Tensor:
        """Return one view of each image, uint8 (B, size, size, 3)."""
        config = self.config
        planes = images.permute(0, 3, 1, 2).float() / 255
        planes = boxed(planes, config, generator=generator)
        mirrored = _chosen(len(planes), config.flip, generator)
        planes = torch.where(mirrored, planes.flip(3), planes)
        changed = jittered(planes, config.jitter, generator=generator)
        planes = torch.where(_chosen(len(planes), config.jitter_share, generator), changed, planes)
        grey = _chosen(len(planes), config.grayscale, generator)
        planes = torch.where(grey, luma(planes).expand_as(planes), planes)
        if config.blur:
            soft = blurred(planes, config, generator=generator)
            planes = torch.where(_chosen(len(planes), config.blur, generator), soft, planes)
        return (planes.permute(0, 2, 3, 1) * 255).round_().clamp_(0, 255).to(torch.uint8)


def boxed(planes: Tensor, config: ViewConfig, *, generator: Generator) -> Tensor:
    """Resize a random box of each image, or the whole image, to (B, 3, size, size), bilinear.

    planes: float (B, 3, H, W). A box is sampled without antialiasing, because it is seldom reduced.
    """
    size = (config.size, config.size)
    if config.area is None:
        if tuple(planes.shape[2:]) == size:
            return planes
        return F.interpolate(planes, size, mode="bilinear", antialias=True)
    count = len(planes)
    area = _uniform(count, *config.area, generator=generator)
    ratio = _uniform(count, *map(math.log, _RATIO), generator=generator).exp()
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    left = (1 - width) * (2 * torch.rand(count, generator=generator) - 1)  # centre, in -1..1
    top = (1 - height) * (2 * torch.rand(count, generator=generator) - 1)
    zero = torch.zeros(count)
    rows = (torch.stack([width, zero, left], 1), torch.stack([zero, height, top], 1))
    grid = F.affine_grid(torch.stack(rows, 1), [count, 3, *size], align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def jittered(
    planes: Tensor, jitter: tuple[float, float, float, float], *, generator: Generator
) -> Tensor:
    """Jitter brightness, contrast, saturation and hue of each image, in this order, as in `ViewConfig`.

    planes: float (B, 3, H, W) in 0..1. Hue is a rotation of the chroma plane of YIQ, a linear map; torchvision
    converts to HSV instead.
    """
    count = len(planes)
    draws = 2 * torch.rand((4, count, 1, 1, 1), generator=generator) - 1
    brightness, contrast, saturation = (1 + f * d for f, d in zip(jitter[:3], draws, strict=False))
    planes = (planes * brightness).clamp(0, 1)
    mean = luma(planes).mean(dim=(2, 3), keepdim=True)
    planes = (mean + (planes - mean) * contrast).clamp(0, 1)
    grey = luma(planes)
    planes = (grey + (planes - grey) * saturation).clamp(0, 1)
    if jitter[3] == 0:
        return planes
    return turned(planes, 2 * math.pi * jitter[3] * draws[3].flatten()).clamp(0, 1)


def turned(planes: Tensor, angles: Tensor) -> Tensor:
    """Rotate the hue of each image by its angle in radians, with constant luma.

    planes: float (B, 3, H, W). angles: (B,).
    """
    to_yiq = torch.tensor(_YIQ)
    cos, sin = angles.cos(), angles.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = ([one, zero, zero], [zero, cos, -sin], [zero, sin, cos])
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)  # (B, 3, 3)
    matrices = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    mixed: Tensor = matrices @ planes.flatten(2)
    return mixed.reshape(planes.shape)


def luma(planes: Tensor) -> Tensor:
    """Return the luma of each pixel: (B, 3, H, W) to (B, 1, H, W)."""
    grey: Tensor = (planes * torch.tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    return grey


def blurred(planes: Tensor, config: ViewConfig, *, generator: Generator) -> Tensor:
    """Blur each image by a Gaussian of its own width, with reflected edges. planes: float (B, 3, H, W)."""
    count, radius = len(planes), config.blur_kernel // 2
    sigmas = _uniform(count, *config.blur_sigma, generator=generator)
    offsets = torch.arange(-radius, radius + 1.0)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (B * 3, kernel)
    groups = planes.reshape(1, count * 3, *planes.shape[2:])
    padded = F.pad(groups, (radius, radius, radius, radius), mode="reflect")
    across = F.conv2d(padded, weights[:, None, None, :], groups=count * 3)
    return F.conv2d(across, weights[:, None, :, None], groups=count * 3).reshape(planes.shape)


def _uniform(count: int, low: float, high: float, *, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _chosen(count: int, share: float, generator: Generator) -> Tensor:
    """Return a random choice of images, bool (B, 1, 1, 1)."""
    return torch.rand((count, 1, 1, 1), generator=generator) < share
