"""Cosine similarity of a vision transformer's position embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from dlcv.train.figures.canvas import new_figure
from dlcv.train.figures.request import Drawn, Request, Skipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.runtime.results import Float32

_GAP = 1  # cells between the maps
_MANY = 16  # more patches in a row get smaller numbers


def draw_positions(request: Request) -> Drawn:
    """Yield a figure of the similarity of the kept checkpoint's position embeddings."""
    embeddings = position_embeddings(request.final.model)
    if embeddings is None:
        raise Skipped("the network has no learned position of each patch")
    title = f"{request.final.recipe.name}: similarity of position embeddings"
    yield "positions", positions_figure(similarities(embeddings), title=title)


def position_embeddings(model: nn.Module) -> Float32 | None:
    """Return the patches' position embeddings in a timm or torchvision ViT, float32 (h, w, D), or None."""
    if isinstance(model, VisionTransformer) and model.pos_embed is not None:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        grid: Any = model.patch_embed.grid_size
        learned = model.pos_embed[0, prefix:]
    elif isinstance(model, TorchvisionViT):
        side = model.image_size // model.patch_size
        grid, learned = (side, side), model.encoder.pos_embedding[0, 1:]
    else:
        return None
    embeddings: Float32 = learned.detach().float().numpy()
    return embeddings.reshape(*grid, -1)


def similarities(embeddings: Float32) -> Float32:
    """Return the cosine similarities of embeddings (h, w, D), each with each: (h, w, h, w), in -1..1."""
    lengths = np.linalg.norm(embeddings, axis=2, keepdims=True)
    units = embeddings / np.maximum(lengths, 1e-12)
    cosines: Float32 = np.einsum("hwd,ijd->hwij", units, units)
    return cosines


def positions_figure(likeness: Float32, *, title: str) -> Figure:
    """Plot similarities (h, w, h, w) as a grid of grids, as in Dosovitskiy et al. 2021.

    https://arxiv.org/abs/2010.11929, figure 7, centre. Here the colour scale starts at the smallest value, not
    at -1.
    """
    height, width = likeness.shape[:2]
    figure = new_figure(8, 6.6 * height / width + 0.5)
    axes = figure.subplots()
    image = axes.imshow(grid_of_grids(likeness), cmap="viridis", interpolation="nearest", vmax=1)
    size = 6 if max(height, width) > _MANY else 9
    axes.set_xticks(_middles(width), map(str, range(1, width + 1)), fontsize=size)
    axes.set_yticks(_middles(height), map(str, range(1, height + 1)), fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(title=title, xlabel="column of the patch", ylabel="row of the patch")
    figure.colorbar(image, label="cosine similarity of two patches' embeddings", shrink=0.8)
    return figure


def grid_of_grids(maps: Float32) -> Float32:
    """Arrange maps (h, w, i, j) in a grid by their positions, with NaN gaps."""
    h, w, i, j = maps.shape
    gaps = ((0, 0), (0, 0), (0, _GAP), (0, _GAP))
    padded = np.pad(maps, gaps, constant_values=np.nan)
    laid = padded.transpose(0, 2, 1, 3).reshape(h * (i + _GAP), w * (j + _GAP))
    return laid[:-_GAP, :-_GAP]


def _middles(count: int) -> list[float]:
    """Return the centres of `count` maps of `count` cells each."""
    return [number * (count + _GAP) + (count - 1) / 2 for number in range(count)]
