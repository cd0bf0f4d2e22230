"""Downloads weights that timm and torchvision publish. The libraries cache them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torchvision
from torch import Tensor

from dlcv.runtime.errors import RecipeError


def torchvision_state(name: str, *, weights: str = "DEFAULT") -> Mapping[str, Tensor]:
    """Return the state dict that torchvision publishes for a model; for a classifier, trained on ImageNet.

    Raises:
        RecipeError: none is published, or the download failed.
    """

    def download() -> Mapping[str, Tensor]:
        published = torchvision.models.get_model_weights(name)[weights]
        state: Mapping[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
        return state

    return downloaded(f"torchvision:{name}", download)


def timm_state(name: str, **options: Any) -> Mapping[str, Tensor]:
    """Return the state dict that timm publishes for a model, with position embeddings adapted to `options`.

    Raises:
        RecipeError: none is published, or the download failed.
    """
    return downloaded(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=True, **options).state_dict()
    )


def downloaded(name: str, download: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return what a download gives. name: of the network, for the message.

    Raises:
        RecipeError: nothing is published, or the download failed.
    """
    try:
        return download()
    except (OSError, RuntimeError, KeyError, ValueError) as e:  # no network; none published
        reason = " ".join(str(e).split()) or type(e).__name__
        raise RecipeError(
            f"the pretrained weights of {name} could not be had ({reason}); retry with a network, or set"
            " weights to a file with them, allow_missing to [head] and pretrained to false"
        ) from e
