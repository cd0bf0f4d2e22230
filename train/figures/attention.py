"""Class-token attention of a vision transformer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from dlcv.runtime.results.draw import draw_heat, heat_colors, readable
from dlcv.train.attention import Walk, walker_for
from dlcv.train.figures.canvas import new_figure
from dlcv.train.figures.photos import Photo, photos_for, pixels_of
from dlcv.train.figures.request import Drawn, Request, Skipped
from dlcv.train.modules import normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dlcv.runtime.results import Float32

_SIDE = 2.4  # size of a photo in inches


def draw_attention(request: Request) -> Drawn:
    """Yield figures of the kept checkpoint's attention on photos."""
    walk = walker_for(request.labelled.model)
    if walk is None:
        raise Skipped("the network is no vision transformer with a class token")
    photos = photos_for(request)
    recipe = request.labelled.recipe
    with torch.inference_mode():
        walked = walk(normalised(pixels_of(photos), recipe.normalization))
    yield "attention", attention_figure(photos, walked, title=recipe.name)


def attention_figure(photos: Sequence[Photo], walked: Walk, *, title: str) -> Figure:
    """Plot one row per photo: the last layer's mean over the heads, rollout, and each head of the last layer.

    Each map is scaled to its own range.
    """
    attention, rollout = walked.attention().numpy(), walked.rollout().numpy()
    heads = attention.shape[1]
    rows = math.ceil(math.sqrt(heads))
    columns = math.ceil(heads / rows)
    heights = [_SIDE * photo.aspect + 0.2 * rows for photo in photos for _ in range(rows)]
    figure = new_figure(_SIDE * (3 + columns / rows) + 0.4, sum(heights) / rows + 0.6)
    grid = figure.add_gridspec(len(heights), 3 * rows + columns, height_ratios=heights)
    for number, photo in enumerate(photos):
        maps = {"last layer, mean of heads": attention[number].mean(0), "rollout": rollout[number]}
        first, last = number * rows, (number + 1) * rows
        for column, (name, picture) in enumerate(_pictures(photo, maps).items()):
            axes = figure.add_subplot(grid[first:last, column * rows : (column + 1) * rows])
            _show(axes, picture, title=name, size=9)
        for head, values in enumerate(attention[number]):
            row, column = divmod(head, columns)
            axes = figure.add_subplot(grid[first + row, 3 * rows + column])
            picture, aspect = heat_colors(readable(values)), photo.cell_aspect(values.shape)
            _show(axes, picture, title=f"head {head + 1}", size=7, aspect=aspect)
    figure.suptitle(f"{title}: attention of the class token to the patches")
    return figure


def _pictures(photo: Photo, maps: dict[str, Float32]) -> dict[str, Any]:
    """Return the photo, and its overlays with maps float32 (h, w), by title."""
    frame = photo.frame
    pictures = {
        name: draw_heat(photo.view, readable(values), box=frame.box, size=frame.size)
        for name, values in maps.items()
    }
    return {photo.title(34): photo.view, **pictures}


def _show(axes: Axes, picture: Any, *, title: str, size: int, aspect: float = 1) -> None:
    axes.imshow(picture, interpolation="nearest", aspect=aspect)
    axes.set_axis_off()
    axes.set_title(title, fontsize=size, pad=2)
