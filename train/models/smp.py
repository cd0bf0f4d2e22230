"""Segmenters of segmentation_models_pytorch by name: `smp:Unet`. Options go to the library's builder.

Iakubovskii 2019, https://github.com/qubvel-org/segmentation_models.pytorch. Logits (B, classes, H, W) have the image's
size.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from dlcv.runtime.errors import RecipeError
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
    architecture = _architecture(name)
    if "classes" in options:
        raise RecipeError("the classes of an smp: network are the recipe's; leave the option out")
    network = _built(architecture, name, {**options, "classes": num_classes})
    published = {**options, "encoder_weights": encoder_weights or _PUBLISHED}
    encoder: nn.Module = network.encoder
    return ModelSpec(
        network=network,
        backbone=encoder,
        segments=True,
        network_head=("segmentation_head.",),
        pretrained=partial(_encoder_state, architecture, name, published),
    )


def _architecture(name: str) -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as e:
        raise RecipeError("smp: needs segmentation_models_pytorch: pip install 'dlcv[smp]'") from e
    known = {arch.__name__.lower(): arch for arch in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if name.lower() == "upernet":
        raise RecipeError(_NO_UPERNET)
    if name.lower() not in known:
        names = sorted(arch.__name__ for arch in known.values())
        near = difflib.get_close_matches(name, names, n=2) or names
        raise RecipeError(
            f"segmentation_models_pytorch {smp.__version__} has no architecture {name!r}; there are {', '.join(near)}"
        )
    return known[name.lower()]


def _built(architecture: Any, name: str, options: Mapping[str, Any]) -> Any:
    try:
        return architecture(**{"encoder_weights": None, **options})
    except Exception as e:  # the library raises KeyError, ValueError and TypeError for options
        reason = " ".join(str(e).split())
        raise RecipeError(f"smp:{name} refuses its options {dict(options)}: {reason}") from e


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
