"""Draws every figure that applies to a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dlcv.runtime.errors import InputError
from dlcv.train.figures.activations import draw_activations
from dlcv.train.figures.attention import draw_attention
from dlcv.train.figures.canvas import require_figures, save_figure
from dlcv.train.figures.confusion import draw_confusion
from dlcv.train.figures.curves import draw_curves
from dlcv.train.figures.filters import draw_filters
from dlcv.train.figures.masks import draw_masks
from dlcv.train.figures.positions import draw_positions
from dlcv.train.figures.projections import draw_pca, draw_tsne
from dlcv.train.figures.request import Drawn, Request, Skipped

FIGURES: dict[str, Callable[[Request], Drawn]] = {
    "curves": draw_curves,
    "confusion": draw_confusion,
    "masks": draw_masks,
    "pca": draw_pca,
    "tsne": draw_tsne,
    "filters": draw_filters,
    "activations": draw_activations,
    "positions": draw_positions,
    "attention": draw_attention,
}


def draw_figures(request: Request) -> Iterator[str]:
    """Write the figures and yield one line for each: its path, or why it is skipped.

    Raises:
        InputError: matplotlib or scikit-learn is missing, a figure, image or layer that was asked for is not
            there, or a photo cannot be read.
        RecipeError: the run is no checkpoint, or its data are missing.
        OutputError: a file cannot be written.
    """
    require_figures()
    for name, draw in _wanted(request.only).items():
        try:
            for file, figure in draw(request):
                path = request.out / f"{file}.png"
                save_figure(figure, path)
                yield str(path)
        except Skipped as e:
            yield f"skipped {name}: {e}"


def _wanted(names: tuple[str, ...]) -> dict[str, Callable[[Request], Drawn]]:
    for name in names:
        if name not in FIGURES:
            raise InputError(f"--only {name}: no such figure; figures: {', '.join(FIGURES)}")
    return {name: draw for name, draw in FIGURES.items() if not names or name in names}
