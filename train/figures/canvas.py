"""Helpers of all figures: canvas, colours, and saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.machine.system import is_importable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
_NEEDED = {"matplotlib": "matplotlib", "scikit-learn": "sklearn"}
# Ten colours that colour-blind people can tell apart (Petroff 2021, https://arxiv.org/abs/2107.02270).
TEN_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


def require_figures() -> None:
    """Check that matplotlib and scikit-learn are installed.

    Raises:
        InputError: matplotlib or scikit-learn is missing.
    """
    missing = [name for name, module in _NEEDED.items() if not is_importable(module)]
    if missing:
        raise InputError(f"figures need {' and '.join(missing)}; run pip install 'dlcv[figures]'")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches. It has no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as e:
        raise OutputError(f"cannot write {path}: {e.strerror or e}") from e
