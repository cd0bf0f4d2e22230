"""Predicted masks of a segmenter at its snapshots and at the end, beside photo and ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dlcv.runtime.results.draw import palette
from dlcv.train.data.batches import IGNORE_LABEL
from dlcv.train.data.decode import decoded, mask_coding
from dlcv.train.figures.canvas import new_figure
from dlcv.train.figures.photos import chosen_images, short_name
from dlcv.train.figures.request import Drawn, Request, Skipped
from dlcv.train.metrics import predictions_from_outputs
from dlcv.train.modules import normalised

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from dlcv.runtime.bundle.schema import ClassInfo
    from dlcv.runtime.images import UInt8
    from dlcv.train.checkpoint import Checkpoint
    from dlcv.train.recipe import Recipe

_IGNORED = (0, 0, 0)


def draw_masks(request: Request) -> Drawn:
    """Yield a figure of predicted masks of a few test images over the course of the run."""
    recipe = request.labelled.recipe
    if recipe.task != "segment":
        raise Skipped("the run classifies")
    dataset = decoded(
        chosen_images(request), preprocessing=recipe.preprocessing, coding=mask_coding(recipe)
    )
    masks = {"truth": dataset.labels.numpy()}
    for title, checkpoint in request.checkpoints():
        masks[title] = predicted_masks(checkpoint, dataset.images)
    names, photos = [short_name(name) for name in dataset.names], dataset.images.numpy()
    figure = masks_figure(photos, masks, recipe.classes, names=names, title=recipe.name)
    yield "masks", figure


def predicted_masks(checkpoint: Checkpoint[Recipe], images: Tensor) -> UInt8:
    """Return predicted masks uint8 (N, H, W) of images uint8 (N, H, W, 3)."""
    with torch.inference_mode():
        outputs = checkpoint.model(normalised(images, checkpoint.recipe.normalization))
    return predictions_from_outputs(outputs).to(torch.uint8).numpy()


def masks_figure(
    photos: UInt8,
    masks: Mapping[str, UInt8],
    classes: Sequence[ClassInfo],
    *,
    names: Sequence[str],
    title: str,
) -> Figure:
    """Plot one row per photo, uint8 (N, H, W, 3), and one column per named set of masks, uint8 (N, H, W)."""
    from matplotlib.patches import Patch

    height, width = photos.shape[1:3]
    columns, aspect = 1 + len(masks), height / width
    figure = new_figure(2.2 * columns, 2.2 * aspect * len(photos) + 1.2)
    grid = figure.subplots(len(photos), columns, squeeze=False)
    colors = palette(tuple(classes)).copy()
    colors[IGNORE_LABEL] = _IGNORED
    pictures = {"photo": photos, **{name: colors[mask] for name, mask in masks.items()}}
    for column, (name, stack) in enumerate(pictures.items()):
        grid[0, column].set_title(name, fontsize=10)
        for row, picture in enumerate(stack):
            grid[row, column].imshow(picture, interpolation="nearest")
            grid[row, column].set(xticks=[], yticks=[])
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=8)
    shown = [(info.name, colors[i] / 255) for i, info in enumerate(classes)]
    if any(np.any(mask == IGNORE_LABEL) for mask in masks.values()):
        shown.append(("not scored", np.divide(_IGNORED, 255)))
    patches = [Patch(facecolor=color, edgecolor="grey", label=name) for name, color in shown]
    ncols = min(len(patches), 1 + 2 * columns // 3)
    figure.legend(handles=patches, loc="outside lower center", ncols=ncols, frameon=False)
    figure.suptitle(title)
    return figure
