"""Segmenters of segmentation_models_pytorch by name: `smp:Unet`. Options go to the library's builder.

Iakubovskii 2019, https://github.com/qubvel-org/segmentation_models.pytorch. Logits (B, classes, H, W) have the image's
size.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.models.published import downloaded
from dlcv.train.models.spec import ModelSpec

_ENCODER = "encoder."
_PUBLISHED = "imagenet"
_NO_UPERNET = (
    "smp:UPerNet is not trained here, because it cannot be exported: its graph fails at other image sizes; take smp:FPN, "
    "smp:Unet or smp:DeepLabV3Plus"
)


def smp_segmenter(
    num_classes: int, *, name: str, encoder_weights: str | None = None, **options: Any
) -> ModelSpec:
    """Build a segmenter with random weights.

    encoder_weights: which published weights of the encoder a recipe's `pretrained: true` downloads, imagenet by
    default; nothing is downloaded here. options: of the library, such as encoder_name. A weights file is either of
    the whole network or of its encoder.

    Raises:
        RecipeError: the library is not installed, has no such architecture, or refuses the options.
    """
    if "classes" in options:
        raise RecipeError("the classes of an smp: network are the recipe's; leave the option out")
    if name.lower() == "upernet":
        raise RecipeError(_NO_UPERNET)
    try:
        architecture = architecture_of(name)
        given = {**options, "classes": num_classes}
        refusal = f"smp:{name} refuses its options {given}"
        network = build_segmenter(architecture, given, refusal=refusal)
    except InputError as e:
        raise RecipeError(str(e)) from e.__cause__
    published = {**options, "encoder_weights": encoder_weights or _PUBLISHED}
    encoder: nn.Module = network.encoder
    return ModelSpec(
        network=network,
        backbone=encoder,
        segments=True,
        network_head=("segmentation_head.",),
        pretrained=partial(_encoder_state, architecture, name, published),
    )


def smp_library() -> Any:
    """Import segmentation_models_pytorch.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ModuleNotFoundError as e:
        raise InputError("smp: needs segmentation_models_pytorch: pip install 'dlcv[smp]'") from e


def architecture_of(name: str) -> Any:
    """Return the library's class of an architecture, whatever the case of its name.

    Raises:
        InputError: the library is not installed, or has no such architecture.
    """
    smp = smp_library()
    known = {arch.__name__.lower(): arch for arch in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if name.lower() not in known:
        names = sorted(arch.__name__ for arch in known.values())
        near = difflib.get_close_matches(name, names, n=2) or names
        raise InputError(
            f"segmentation_models_pytorch {smp.__version__} has no architecture {name!r}; there are {', '.join(near)}"
        )
    return known[name.lower()]


def build_segmenter(architecture: Any, options: Mapping[str, Any], *, refusal: str) -> Any:
    """Build a segmenter, with random weights unless the options say otherwise.

    refusal: the beginning of the sentence where it refuses them.

    Raises:
        InputError: it refuses the options.
    """
    try:
        return architecture(**{"encoder_weights": None, **options})
    except Exception as e:  # the library raises KeyError, ValueError and TypeError for options
        reason = " ".join(str(e).split())
        raise InputError(f"{refusal}: {reason}") from e


def _encoder_state(
    architecture: Any, name: str, options: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Return the published weights of an encoder.

    Raises:
        RecipeError: none are published under that name, or the download failed.
    """

    def download() -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = architecture(**options).encoder.state_dict()
        return state

    return downloaded(f"smp:{name} ({options['encoder_weights']})", download)
