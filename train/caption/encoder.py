"""Image encoders of captioners: the feature map of a CNN, or the patches of a ViT as a feature map."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from dlcv.runtime.errors import RecipeError
from dlcv.train.models.published import timm_state, torchvision_state
from dlcv.train.models.spec import ModelSpec
from dlcv.train.settings import ModelConfig


class TimmFeatures(nn.Module):
    """The last feature map (B, channels, h, w) of a timm network. For a ViT, positions are patches."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of normalised images (B, 3, H, W)."""
        features: Tensor = self.backbone.forward_features(x)
        if features.ndim == 4:
            return features
        patches = features[:, self.backbone.num_prefix_tokens :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *self.backbone.patch_embed.grid_size)


def build_encoder(config: ModelConfig) -> ModelSpec:
    """Build an encoder with random weights. `network` of the result is the encoder.

    Raises:
        RecipeError: no such network, or none that has a feature map.
    """
    library, _, name = config.name.partition(":")
    builder = {"timm": _timm, "torchvision": _torchvision}.get(library)
    if builder is None or not name:
        raise RecipeError(
            f"no encoder {config.name!r}; give torchvision:NAME, such as torchvision:mobilenet_v2, or timm:NAME"
        )
    try:
        return builder(name, config.options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as e:
        raise RecipeError(f"no encoder can be made of {config.name!r}: {e}") from e


def feature_shape(encoder: nn.Module, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return channels and grid (h, w) of the features for images of a size (height, width).

    Raises:
        RecipeError: the encoder does not take such images, or gives no feature map.
    """
    training = encoder.training
    try:
        with torch.no_grad():
            shape = encoder.eval()(torch.zeros(1, 3, *size)).shape
    except (AssertionError, AttributeError, RuntimeError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise RecipeError(
            f"the encoder gives no features of images of {size[0]}x{size[1]}: {reason}"
        ) from e
    finally:
        encoder.train(training)
    return shape[1], (shape[2], shape[3])


def _torchvision(name: str, options: Mapping[str, Any]) -> ModelSpec:
    network = torchvision.models.get_model(name, weights=None, **options)
    features = getattr(network, "features", None)
    if not isinstance(features, nn.Module):
        raise ValueError("it has no part `features`; timm has most networks too, as timm:NAME")
    return ModelSpec(
        network=features,
        backbone=features,
        unused_weights=("classifier.",),
        weights_prefix="features.",
        pretrained=partial(torchvision_state, name),
    )


def _timm(name: str, options: Mapping[str, Any]) -> ModelSpec:
    network: Any = timm.create_model(name, num_classes=0, global_pool="", **options)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # can be exported
    classifier = network.pretrained_cfg.get("classifier") or "head"
    return ModelSpec(
        network=TimmFeatures(network),
        backbone=network,
        unused_weights=(f"{classifier}.", "fc_norm."),
        weights_prefix="",
        pretrained=partial(timm_state, name, **options),
    )
