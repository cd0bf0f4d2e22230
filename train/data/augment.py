"""Random augmentation of training batches, on uint8 tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms import AutoAugmentPolicy, v2

from dlcv.train.data.batches import IGNORE_LABEL, Augment, Batch
from dlcv.train.recipe import Recipe
from dlcv.train.settings import AugmentConfig


def augment_for(recipe: Recipe) -> Augment:
    """Return the augmentation function of a recipe."""
    if recipe.task == "classify":
        return Classify(recipe.augment)
    return ScaleCropFlip(recipe.augment, fill=recipe.normalization.mean)


class Classify:
    """Augmentation for classification: AutoAugment, crop, mirror, rotation, jitter, in this order."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.copies = max(1, len(config.policies))
        self._policies = [v2.AutoAugment(AutoAugmentPolicy(name)) for name in config.policies]
        side = (config.crop, config.crop)
        self._boxed = v2.RandomResizedCrop(side, scale=config.area) if config.area else None
        bilinear = v2.InterpolationMode.BILINEAR
        self._turned = (
            v2.RandomRotation([-config.rotation, config.rotation], bilinear)
            if config.rotation
            else None
        )
        self._cropped = CropFlip(config)

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator, copy: Tensor) -> Batch:
        """Augment images, uint8 (B, H, W, 3) to uint8 (B, crop, crop, 3). Labels are unchanged."""
        planes = images.permute(0, 3, 1, 2)
        with _drawing_from(generator):  # torchvision's transforms draw from the global generator
            if self._policies:
                pairs = zip(planes, copy.tolist(), strict=True)
                planes = torch.stack([self._policies[number](image) for image, number in pairs])
            if self._boxed is not None:
                planes = torch.stack([self._boxed(image) for image in planes])
            if self.config.resize is not None:
                side = self.config.resize
                planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
            images = self._cropped(planes.permute(0, 2, 3, 1), generator)
            if self._turned is not None:
                planes = torch.stack([self._turned(i) for i in images.permute(0, 3, 1, 2)])
                images = planes.permute(0, 2, 3, 1)
        return jittered(images, self.config.jitter, generator=generator), labels


@contextmanager
def _drawing_from(generator: Generator) -> Iterator[None]:
    """Seed PyTorch's global generator from `generator`, and restore it afterwards."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


class CropFlip:
    """Pad with zeros, crop and mirror at random: the whole batch in one indexing operation."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Augment images, uint8 (B, H, W, 3) to (B, crop, crop, 3)."""
        pad, crop, count = self.config.pad, self.config.crop, len(images)
        padded = F.pad(images, (0, 0, pad, pad, pad, pad))
        rows = _offsets(padded.shape[1] - crop, count=count, generator=generator)
        columns = _offsets(padded.shape[2] - crop, count=count, generator=generator)
        rows = rows[:, None] + torch.arange(crop)
        columns = columns[:, None] + torch.arange(crop)
        if self.config.flip:
            flipped = torch.rand(count, generator=generator) < 0.5
            columns = torch.where(flipped[:, None], columns.flip(1), columns)
        batch = torch.arange(count)[:, None, None]
        return padded[batch, rows[:, :, None], columns[:, None, :]]


class ScaleCropFlip:
    """Scale, crop, mirror and jitter at random, image by image.

    A crop larger than the scaled image is filled with the mean colour and the ignored label.
    """

    copies = 1

    def __init__(self, config: AugmentConfig, *, fill: tuple[float, float, float]) -> None:
        self.config = config
        self.fill = torch.tensor([round(255 * value) for value in fill], dtype=torch.uint8)

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator, copy: Tensor) -> Batch:
        """Augment images uint8 (B, H, W, 3) and masks uint8 (B, H, W), both to (B, crop, crop, ...)."""
        pairs = [self._one(i, m, generator) for i, m in zip(images, labels, strict=True)]
        cropped = torch.stack([image for image, _ in pairs])
        return (
            jittered(cropped, self.config.jitter, generator=generator),
            torch.stack([mask for _, mask in pairs]),
        )

    def _one(self, image: Tensor, mask: Tensor, generator: Generator) -> Batch:
        crop = self.config.crop
        low, high = self.config.scale
        scale = low * (high / low) ** float(torch.rand((), generator=generator))
        height, width = image.shape[:2]
        region = [min(side, round(crop / scale)) for side in (height, width)]
        top = int(_offsets(height - region[0], count=1, generator=generator))
        left = int(_offsets(width - region[1], count=1, generator=generator))
        image = image[top : top + region[0], left : left + region[1]]
        mask = mask[top : top + region[0], left : left + region[1]]
        if self.config.flip and float(torch.rand((), generator=generator)) < 0.5:
            image, mask = image.flip(1), mask.flip(1)
        size = [min(crop, round(side * scale)) for side in region]
        return self._placed(*_resized(image, mask, size=size))

    def _placed(self, image: Tensor, mask: Tensor) -> Batch:
        crop = self.config.crop
        height, width = mask.shape
        if (height, width) == (crop, crop):
            return image, mask
        canvas = self.fill.expand(crop, crop, 3).clone()
        labels = torch.full((crop, crop), IGNORE_LABEL, dtype=mask.dtype)
        canvas[:height, :width] = image
        labels[:height, :width] = mask
        return canvas, labels


def jittered(images: Tensor, strength: float, *, generator: Generator) -> Tensor:
    """Jitter brightness, contrast and saturation of each image by factors in 1 ± `strength`.

    images: uint8 (B, H, W, 3), RGB. Saturation blends with the luma of ITU-R BT.601.
    """
    if strength == 0.0:
        return images
    count = len(images)
    factors = 1 + strength * (2 * torch.rand((3, count, 1, 1, 1), generator=generator) - 1)
    pixels = images.float() * factors[0]
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * factors[1]
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    pixels = grey + (pixels - grey) * factors[2]
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _offsets(room: int, *, count: int, generator: Generator) -> Tensor:
    return torch.randint(0, room + 1, (count,), generator=generator)


def _resized(image: Tensor, mask: Tensor, *, size: list[int]) -> Batch:
    planes = image.permute(2, 0, 1)[None]  # (1, 3, H, W), uint8
    resized = F.interpolate(planes, size, mode="bilinear", antialias=True)
    labels = F.interpolate(mask[None, None], size, mode="nearest-exact")
    return resized[0].permute(1, 2, 0), labels[0, 0]
