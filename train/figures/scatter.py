"""Scatter plots coloured by class: one panel per checkpoint, with a common legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcv.train.figures.canvas import TEN_COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.train.figures.embeddings import Indices

# The first five are the easiest to tell apart; with ten colours they suffice for fifty classes.
_MARKERS = ("o", "^", "s", "P", "*", "X", "D", "v", "<", ">")
_FEW_MARKERS = 5
_SIDE = 5.0  # size of a panel in inches
_LEGEND_ROWS = 25
_MANY = 500  # more points are drawn smaller


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. points: float (N, 2). labels: of its axes, or none where the values have no meaning."""

    title: str
    points: np.ndarray[Any, Any]
    xlabel: str = ""
    ylabel: str = ""


def scatter_figure(
    panels: Sequence[Panel], labels: Indices, names: Sequence[str], *, title: str
) -> Figure:
    """Plot panels of the same points. labels: int64 (N,), class indices into `names`."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    legend_columns = math.ceil(len(names) / _LEGEND_ROWS)
    widest = max(map(len, names)) * 0.08 + 0.5
    figure = new_figure(_SIDE * columns + legend_columns * widest, (_SIDE + 0.3) * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, labels, names)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, texts = grid[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, texts, loc="outside right center", ncols=legend_columns, frameon=False, fontsize=9,
        handletextpad=0.3, columnspacing=1.0,
    )  # fmt: skip
    for handle in legend.legend_handles:
        handle.set(sizes=[40], alpha=1)  # type: ignore[union-attr]
    figure.suptitle(title)
    return figure


def class_style(index: int, count: int) -> tuple[str, str]:
    """Return colour and marker of one of `count` classes; all differ for up to 100 classes.

    Similar colours (the greys, the browns) never share a marker within a group of ten.
    """
    group, place = divmod(index, len(TEN_COLORS))
    markers = _FEW_MARKERS if count <= _FEW_MARKERS * len(TEN_COLORS) else len(_MARKERS)
    return TEN_COLORS[place], _MARKERS[(place // 2 + group) % markers]


def _draw(axes: Any, panel: Panel, labels: Indices, names: Sequence[str]) -> None:
    size = 18 if len(labels) > _MANY else 26
    for index, name in enumerate(names):
        points = panel.points[labels == index]
        color, marker = class_style(index, len(names))
        axes.scatter(
            *points.T, s=size, color=color, marker=marker, label=name, alpha=0.75, linewidths=0
        )
    axes.set_title(panel.title, fontsize=11)
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    if not panel.xlabel:
        axes.set(xticks=[], yticks=[])
