"""Sources with random weights at full size, to test export and build of a recipe without training.

Plain random weights would test little: scoring layers start at zero, and outputs hardly depend on the image.
Therefore one pass over the sample photos scales each convolution and linear layer to outputs of standard
deviation 1, shifts class scores to equal means, and measures the statistics of BatchNorm. Scaling layer by
layer on data is LSUV of Mishkin and Matas 2016 (https://arxiv.org/abs/1511.06422); here it is a single pass
without their orthonormal initialisation. The parity gate then has the same tolerances as for trained weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlcv.export.sources import ExportSource, SourceOptions, load_source
from dlcv.export.sources.pretrained import LIMITS_OF_RANDOM, seeded
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.caption.vocabulary import TOKENIZER_FILE, vocabulary_from_captions
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.modules import normalised
from dlcv.train.recipe import Recipe, RunRecipe
from dlcv.train.tasks import task_kind

START = "random weights (seed 0), scaled on the sample photos of dlcv"


def untrained_source(recipe: RunRecipe, folder: Path) -> ExportSource:
    """Save a checkpoint of reproducible random weights to a folder and return it as a source.

    For a captioner, the encoder is scaled; its words are made up, as many as in the recipe.

    Raises:
        RecipeError: the recipe's network cannot be built.
        OutputError: the folder cannot be written.
    """
    with seeded(), torch.no_grad():
        network = task_kind(recipe.task).network(recipe).network.eval()
        images = normalised(_photos(recipe.preprocessing), recipe.normalization)
        scaled: Any = getattr(network, "encoder", network)  # of a captioner
        scale_layers(
            scaled, images, classes=len(recipe.classes) if isinstance(recipe, Recipe) else 0
        )
    save_checkpoint(folder, network, recipe=recipe, metrics={}, files=_files(recipe))
    source = load_source(str(folder), SourceOptions())
    return replace(source, origin=f"recipe {recipe.name}, {START}", limits=LIMITS_OF_RANDOM)


def _files(recipe: RunRecipe) -> dict[str, bytes]:
    if not isinstance(recipe, CaptionRecipe):
        return {}
    words = " ".join(f"word{number}" for number in range(recipe.vocabulary))
    vocabulary = vocabulary_from_captions([words], size=recipe.vocabulary)
    return {TOKENIZER_FILE: vocabulary.to_json()}


def scale_layers(network: nn.Module, images: Tensor, *, classes: int) -> None:
    """Scale a network in evaluation mode, in place, on normalised images (B, 3, H, W). classes: 0 if it has none."""

    def scale(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not layer.weight.any():  # scoring layers of finer maps, which start at zero
            nn.init.kaiming_normal_(layer.weight)
            output = layer.forward(*inputs)
        deviation = output.std().clamp(min=1e-6)
        for parameter in layer.parameters(recurse=False):
            parameter.div_(deviation)
        output = output / deviation
        if layer.bias is None or len(layer.weight) != classes:
            return output
        mean = output.transpose(0, 1).flatten(1).mean(1)  # of each class
        layer.bias -= mean
        return output - mean.reshape(1, -1, *[1] * (output.ndim - 2))

    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [
        layer.register_forward_hook(scale)
        for layer in layers
        if not norms or len(layer.weight) == classes  # BatchNorm removes the scale of the others
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over batches; here there is only one
        norm.train()
    network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    for hook in hooks:
        hook.remove()


def _photos(preprocessing: Preprocessing) -> Tensor:
    """Return sample photos of the graph's usual size, uint8 (B, H, W, 3)."""
    stretched = Preprocessing(resize="stretch", size=preprocessing.size)
    pixels = [load_pixels(path, stretched).pixels for path in sample_paths()]
    return torch.from_numpy(np.stack(pixels))
