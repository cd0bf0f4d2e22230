"""Builds networks by name from a dict of builders, imported on use; one file per family.

Networks of libraries are named `timm:NAME`, `torchvision:NAME` and `smp:NAME`, those of your own `py:FILE.py:FUNCTION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dlcv.runtime.errors import RecipeError
from dlcv.train.models.spec import ModelSpec

MODELS = {
    "small_cnn": "dlcv.train.models.small_cnn:small_cnn",
    "conv4": "dlcv.train.models.conv4:conv4",
    "cifar_resnet20": "dlcv.train.models.cifar_resnet:resnet20",
    "cifar_resnet32": "dlcv.train.models.cifar_resnet:resnet32",
    "vit_conv_stem": "dlcv.train.models.vit:vit_conv_stem",
    "lraspp_mobilenet_v2": "dlcv.train.models.segmenters:lraspp_mobilenet_v2",
    "fcn_vgg16": "dlcv.train.models.fcn:fcn_vgg16",
    "fcn_mobilenet_v2": "dlcv.train.models.fcn:fcn_mobilenet_v2",
    "deeplabv3_mobilenet_v2": "dlcv.train.models.segmenters:deeplabv3_mobilenet_v2",
    "deeplabv3_resnet50": "dlcv.train.models.segmenters:deeplabv3_resnet50",
}
LIBRARIES = {
    "timm": "dlcv.train.models.classifiers:timm_classifier",
    "torchvision": "dlcv.train.models.classifiers:torchvision_network",
    "smp": "dlcv.train.models.smp:smp_segmenter",
    "py": "dlcv.train.models.python_file:python_network",
}
_NAMES = {"py": "FILE.py:FUNCTION"}


def build_model(
    name: str, options: Mapping[str, Any] | None = None, *, num_classes: int
) -> ModelSpec:
    """Build a network by name, with random weights. Options are the builder's keyword arguments.

    Raises:
        RecipeError: no such model, or it refuses the options.
    """
    library, _, inner = name.partition(":")
    path = LIBRARIES.get(library) if inner else MODELS.get(name)
    if path is None:
        named = [f"{library}:{_NAMES.get(library, 'NAME')}" for library in LIBRARIES]
        known = ", ".join((*MODELS, *named))
        raise RecipeError(f"no model {name!r}; models: {known}")
    module, _, function = path.partition(":")
    builder = getattr(import_module(module), function)
    inner_name = {"name": inner} if inner else {}
    try:
        spec: ModelSpec = builder(num_classes, **inner_name, **(options or {}))
    except (AssertionError, TypeError, ValueError) as e:  # timm uses assert for invalid options
        raise RecipeError(f"model {name!r} refuses its options {dict(options or {})}: {e}") from e
    return spec


__all__ = ["LIBRARIES", "MODELS", "ModelSpec", "build_model"]
