"""What a network answers, checked before a long run; answers of other forms are brought into the usual one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlcv.runtime.errors import RecipeError

if TYPE_CHECKING:
    from dlcv.train.models.spec import ModelSpec
    from dlcv.train.recipe import Recipe

_IMAGES = 2


class OneAnswer(nn.Module):
    """A network that gives one tensor: its logits or embeddings alone, a segmenter's logits up-sampled to the images' size.

    network: gives them alone, first in a tuple, or in a dict, under `out` or `logits` if it has several values.
    """

    def __init__(self, network: nn.Module, *, up_samples: bool) -> None:
        super().__init__()
        self.network = network
        self.up_samples = up_samples

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes), (B, classes, H, W) or embeddings (B, D). pixels: normalised float32 (B, C, H, W)."""
        logits = answer_of(self.network(pixels))
        if self.up_samples:
            size = pixels.shape[-2:]
            logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits


def usual_answers(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """Return a user's network as one whose answers are of the usual form, after running it once.

    The usual form is logits, alone or as `{"out": logits}`, a segmenter's at the images' size.

    Raises:
        RecipeError: it fails on images of the recipe's size, or gives no logits.
    """
    outputs = outputs_for(spec.network, recipe.preprocessing.size)
    logits = answer_of(outputs)
    is_map = recipe.task == "segment" and logits.ndim == 4
    is_small = is_map and logits.shape[2:] != recipe.preprocessing.size
    is_usual = outputs is logits or (isinstance(outputs, dict) and outputs.get("out") is logits)
    if is_usual and not is_small:
        return spec
    return replace(spec, network=OneAnswer(spec.network, up_samples=is_small))


def require_answers(network: nn.Module, recipe: Recipe) -> None:
    """Check that a network gives logits for the recipe's classes on images of its size.

    Raises:
        RecipeError: it fails on such images, or gives another shape.
    """
    size, classes = recipe.preprocessing.size, len(recipe.classes)
    shape = tuple(answer_of(outputs_for(network, size)).shape)
    wanted = (_IMAGES, classes, *(size if recipe.task == "segment" else ()))
    if shape != wanted:
        axes = "(batch, classes, H, W)" if recipe.task == "segment" else "(batch, classes)"
        raise RecipeError(
            f"for task {recipe.task} a network gives {axes}, of {_IMAGES} images of {size[0]}x{size[1]} and {classes} classes"
            f" {wanted}; {recipe.model.name} gives {shape}; take another network, or mend its number of classes"
        )


def outputs_for(network: nn.Module, size: tuple[int, int]) -> Any:
    """Return what a network gives in evaluation mode for two noisy images of a size (height, width).

    Its mode stays as it was.

    Raises:
        RecipeError: it fails.
    """
    training = {module: module.training for module in network.modules()}
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(_IMAGES, 3, *size, generator=generator)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return network.eval()(pixels)
    except Exception as e:  # anything can come from the user's code
        reason = " ".join(str(e).split()) or type(e).__name__
        raise RecipeError(
            f"the network does not take images of {size[0]}x{size[1]} ({reason}); give another size, in a recipe"
            " preprocessing.size, or mend it"
        ) from e
    finally:
        for module, was in training.items():
            module.training = was


def answer_of(outputs: Any) -> Tensor:
    """Return the logits or embeddings in what a network returns.

    Raises:
        RecipeError: there is no tensor that can be they.
    """
    if isinstance(outputs, Mapping):
        named = [outputs[key] for key in ("out", "logits") if key in outputs]
        outputs = named[0] if named else next(iter(outputs.values()), None)
    if isinstance(outputs, (tuple, list)):
        outputs = outputs[0] if outputs else None
    if not isinstance(outputs, Tensor):
        raise RecipeError(
            "the network returns no tensor of answers; return logits, or a dict with 'out' or 'logits'"
        )
    return outputs
