"""Activation maps of a network's layers on photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dlcv.runtime.errors import InputError
from dlcv.train.figures.canvas import new_figure
from dlcv.train.figures.filters import first_convolution
from dlcv.train.figures.photos import Photo, photos_for, pixels_of
from dlcv.train.figures.request import Drawn, Request, Skipped
from dlcv.train.modules import normalised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.runtime.results import Float32

_CHANNELS = 10
_SIDE = 1.15  # size of a picture in inches
_MOST_LETTERS = 18  # characters of a layer's name below it


def draw_activations(request: Request) -> Drawn:
    """Yield figures of activations of the kept checkpoint's first layer and other layers, on photos.

    Raises:
        InputError: there is no such layer, or it gives no maps.
    """
    model, recipe = request.labelled.model, request.labelled.recipe
    first = first_convolution(model)
    if first is None:
        raise Skipped("no convolution of the network sees RGB")
    photos = photos_for(request)
    outputs = layer_outputs(model, normalised(pixels_of(photos), recipe.normalization))
    layers = dict.fromkeys((first[0], *(request.layers or (last_block(model, outputs),))))
    maps = {name: maps_of(outputs, name) for name in layers}
    yield "activations", activations_figure(photos, maps, title=recipe.name)


def layer_outputs(model: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Run a network on normalised float32 images (N, 3, H, W). Return each module's output in order of completion.

    Modules whose output is not a single tensor are left out. If a module runs more than once, its last output
    counts.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.pop(name, None)
            outputs[name] = output.clone()  # copied, because the next layer may work in place

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            if name:
                handle = module.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
                hooks.callback(handle.remove)
        model(pixels)
    return outputs


def last_block(model: nn.Module, outputs: Mapping[str, Tensor]) -> str:
    """Return the outermost module that ends in the last convolution; of the backbone, if there is one.

    A convolution that is not inside a block is followed to the end of its normalisation and activation.
    """
    inside = "backbone." if hasattr(model, "backbone") else ""
    names = [name for name, out in outputs.items() if out.ndim == 4 and name.startswith(inside)]
    blocks = [name for name in names if _has_convolution(model.get_submodule(name))]
    last = blocks[-1]
    if isinstance(model.get_submodule(last), nn.Conv2d):
        for name in names[names.index(last) + 1 :]:
            if outputs[name].shape != outputs[last].shape:
                break
            last = name
    return last


def maps_of(outputs: Mapping[str, Tensor], name: str) -> Float32:
    """Return a layer's maps, float32 (N, C, h, w).

    Raises:
        InputError: no such layer, or what it gives has another shape.
    """
    if name not in outputs:
        near = get_close_matches(name, outputs, n=3, cutoff=0.4)
        hint = f"near it are {', '.join(near)}" if near else "dlcv-train summary names them"
        raise InputError(f"--layer {name}: the network has no layer of this name; {hint}")
    output = outputs[name]
    if output.ndim != 4:
        raise InputError(
            f"--layer {name}: expected maps (N, channels, h, w), but it gives {tuple(output.shape)};"
            " name a convolution or a block of them"
        )
    maps: Float32 = output.float().numpy()
    return maps


def liveliest(maps: Float32, count: int) -> list[int]:
    """Return, in order, the channels of maps (N, C, h, w) with the largest variance over images, at most `count`."""
    spread = maps.std(axis=(2, 3)).mean(axis=0)
    return sorted(np.argsort(-spread, kind="stable")[:count].tolist())


def activations_figure(
    photos: Sequence[Photo], maps: Mapping[str, Float32], *, title: str
) -> Figure:
    """Plot maps (N, C, h, w), one row per photo and layer: ten channels, the same for all photos.

    Each map is scaled to its own range.
    """
    rows = [(number, layer) for number in range(len(photos)) for layer in maps]
    channels = {layer: liveliest(stack, _CHANNELS) for layer, stack in maps.items()}
    heights = [_SIDE * photos[number].aspect + 0.45 for number, _ in rows]
    figure = new_figure(_SIDE * (1 + _CHANNELS), sum(heights) + 0.4)
    grid = figure.subplots(len(rows), 1 + _CHANNELS, squeeze=False, height_ratios=heights)
    for axes in grid.flatten():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for line, (number, layer) in zip(grid, rows, strict=True):
        line[0].imshow(photos[number].seen())
        line[0].set_title(photos[number].title(17), fontsize=7, pad=2)
        line[0].set_xlabel(_end_of(layer), fontsize=7, labelpad=2)
        for axes, channel in zip(line[1:], channels[layer], strict=False):
            shown = maps[layer][number, channel]
            aspect = photos[number].cell_aspect(shown.shape)
            axes.imshow(shown, cmap="viridis", interpolation="nearest", aspect=aspect)
            axes.set_title(f"channel {channel}", fontsize=7, pad=2)
    figure.suptitle(f"{title}: activations")
    return figure


def _end_of(layer: str) -> str:
    """Return a layer's name, with the beginning of long names cut."""
    return layer if len(layer) <= _MOST_LETTERS else f"…{layer[1 - _MOST_LETTERS :]}"


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.Conv2d) for inner in module.modules())
