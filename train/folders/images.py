"""How images are prepared for a network: as its library does for its published weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.data.config import resolve_data_config
from torchvision import models

from dlcv.runtime.bundle.schema import Resample

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESAMPLE: dict[str, Resample] = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
}


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How images are prepared.

    side: of a classifier's square input in pixels. mean, std: in units of 0..1. crop_fraction: the input's share of the
    resized image, whose middle is cut out; None: all of the image, stretched. source: who says so.
    """

    side: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resample: Resample = "bilinear"
    crop_fraction: float | None = 0.875
    source: str = "ImageNet's mean and std, for want of the network's own"


def image_settings(network: str) -> ImageSettings:
    """Return how images are prepared for a network, by its name in a recipe."""
    library, _, name = network.partition(":")
    if library == "timm":
        return _of_timm(name)
    if library == "torchvision":
        return _of_torchvision(name)
    if library == "smp":
        return ImageSettings(
            source="ImageNet's mean and std, with which smp's encoders are trained"
        )
    return ImageSettings()


def size_option(network: str, size: tuple[int, int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option by which a network that takes one size only is told it, unless it is given."""
    library, _, name = network.partition(":")
    if library == "timm":
        config = timm.get_pretrained_cfg(name)
        if config and config.fixed_input_size and "img_size" not in options:
            return {"img_size": list(size)}
    elif library == "torchvision" and name.startswith("vit_") and "image_size" not in options:
        return {"image_size": size[0]}
    return {}


def _of_timm(name: str) -> ImageSettings:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return ImageSettings()
    found: dict[str, Any] = resolve_data_config(pretrained_cfg=config.to_dict())  # type: ignore[no-untyped-call]
    side = found["input_size"][1]
    is_cut = found["crop_mode"] == "center"
    return ImageSettings(
        side=side,
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        resample=_RESAMPLE.get(found["interpolation"], "bilinear"),
        crop_fraction=round(side / int(side / found["crop_pct"]), 6) if is_cut else None,
        source="as timm says of its published weights",
    )


def _of_torchvision(name: str) -> ImageSettings:
    entries: Any = models.get_model_weights(name)
    preset = entries.DEFAULT.transforms()
    told: dict[str, Any] = {
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "source": "as torchvision says of its published weights",
    }
    if not hasattr(preset, "crop_size"):  # of a segmenter
        return ImageSettings(**told)
    side = preset.crop_size[0]
    return ImageSettings(
        side=side,
        resample=_RESAMPLE.get(preset.interpolation.value, "bilinear"),
        crop_fraction=round(side / preset.resize_size[0], 6),
        **told,
    )
