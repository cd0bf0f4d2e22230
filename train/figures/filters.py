"""First-layer filters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from dlcv.train.figures.canvas import new_figure
from dlcv.train.figures.request import Drawn, Request, Skipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.runtime.results import Float32

_MOST_FILTERS = 64
_COMPONENTS = 28  # as many as Dosovitskiy et al. show
_COLUMNS = 8


def draw_filters(request: Request) -> Drawn:
    """Yield figures of the kept checkpoint's first-layer filters.

    Of more than 64 filters, the first principal components are drawn, as in Dosovitskiy et al. 2021
    (https://arxiv.org/abs/2010.11929, figure 7, left) for a ViT's patch embedding.
    """
    found = first_convolution(request.final.model)
    if found is None:
        raise Skipped("no convolution of the network sees RGB")
    layer, convolution = found
    filters = convolution.weight.detach().float().numpy()
    what = f"{len(filters)} filters of {layer}"
    if len(filters) > _MOST_FILTERS:
        filters, share = principal_filters(filters, _COMPONENTS)
        what = f"first {len(filters)} components of the {what} ({share:.0%} of their variance)"
    height, width = filters.shape[2:]
    title = f"{request.final.recipe.name}\n{what}, {height}x{width} pixels"
    yield "filters", filters_figure(filters, title=title)


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the first convolution on RGB and its name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return name, module
    return None


def principal_filters(filters: Float32, count: int) -> tuple[Float32, float]:
    """Return the first principal components of filters (N, 3, h, w), and their share of the variance, 0..1.

    A component's sign is arbitrary; it is chosen to make the largest value positive.
    """
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    _, sizes, components = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    chosen = components[:count]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)
    share = float((sizes[:count] ** 2).sum() / (sizes**2).sum())
    return (chosen * np.sign(largest)).reshape(-1, *filters.shape[1:]).astype(np.float32), share


def filters_figure(filters: Float32, *, title: str) -> Figure:
    """Plot filters (N, 3, h, w) as RGB, each scaled to its own range."""
    rows = math.ceil(len(filters) / _COLUMNS)
    figure = new_figure(_COLUMNS * 0.9, rows * 0.95 + 0.6)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, picture in zip(grid, stretched(filters).transpose(0, 2, 3, 1), strict=False):
        axes.imshow(picture, interpolation="nearest")
    figure.suptitle(title, fontsize=10)
    return figure


def stretched(pictures: np.ndarray[Any, Any]) -> Float32:
    """Scale each of (N, ...) to 0..1. Constant ones become 0."""
    axes = tuple(range(1, pictures.ndim))
    low, high = pictures.min(axis=axes, keepdims=True), pictures.max(axis=axes, keepdims=True)
    span = np.maximum(high - low, np.finfo(np.float32).tiny)
    shares: Float32 = ((pictures - low) / span).astype(np.float32)
    return shares
