"""Training and validation curves: loss and score over epochs and steps."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcv.runtime.errors import InputError
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.figures.canvas import TEN_COLORS, new_figure
from dlcv.train.figures.request import Drawn, Request, Skipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcv.train.recipe import RunRecipe

_TRAINING, _VALIDATION = TEN_COLORS[0], TEN_COLORS[2]
_SCORES = {
    "mean_iou": ("validation, mean IoU", _VALIDATION),
    "probe_accuracy": ("linear probe", _VALIDATION),
    "cider": ("validation, CIDEr", _VALIDATION),
    "remembered": ("training photos remembered", _TRAINING),
    "accuracy": ("validation", _VALIDATION),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One value of a log. epoch: from 1. step: optimizer steps before it, from 0."""

    name: str
    epoch: int
    step: int
    value: float


def draw_curves(request: Request) -> Drawn:
    """Yield the curves of a run, by epoch and by step."""
    title = _title(request.final.recipe)
    try:
        entries = read_log(request.run)
    except InputError as e:
        raise Skipped(str(e)) from e
    for by in ("epoch", "step"):
        yield f"curves-{by}", curves_figure(entries, title=title, by=by)


def _title(recipe: RunRecipe) -> str:
    if not isinstance(recipe, FewShotRecipe):
        return recipe.name
    kinds = {"training": recipe.training, "validation": recipe.validation}
    ways = [f"{name} {kind.ways}-way {kind.shots}-shot" for name, kind in kinds.items()]
    return f"{recipe.name}: {', '.join(ways)}"


def read_log(run: Path) -> list[Entry]:
    """Return a run's log in order. A resumed run has several files; the later one counts.

    Raises:
        InputError: there is no log, or a file is none.
    """
    paths = sorted(run.glob("log/version_*/metrics.csv"), key=_version)
    entries: list[Entry] = []
    for path in paths:
        later = _entries(path)
        start = min((entry.step for entry in later), default=None)
        if start is not None:  # the resumed run repeats the unfinished epoch of the stopped one
            entries = [entry for entry in entries if entry.step < start]
        entries += later
    if not entries:
        raise InputError(f"{run} has no log: log/version_0/metrics.csv is missing or empty")
    return entries


def curves_figure(entries: list[Entry], *, title: str, by: str) -> Figure:
    """Plot loss and score side by side. by: `epoch`, means of epochs; `step`, every logged step."""
    figure = new_figure(10, 4)
    loss, score = figure.subplots(1, 2)
    segments = any(entry.name == "mean_iou" for entry in entries)
    for axes, name in ((loss, "loss"), (score, "train_accuracy")):
        if by == "step":
            _draw_steps(axes, _points(entries, f"{name}_step", by))
        else:
            what = ", pixel accuracy" if segments and axes is score else ""
            _draw(axes, _points(entries, f"{name}_epoch", by), f"training{what}", _TRAINING)
    _draw(loss, _points(entries, "val_loss", by), "validation", _VALIDATION)
    drawn = [name for name in _SCORES if any(entry.name == name for entry in entries)]
    for name in ("mean_iou",) if segments else drawn:
        _draw(score, _points(entries, name, by), *_SCORES[name])
    byol, captions = "probe_accuracy" in drawn, "cider" in drawn
    what = "2 - 2 cos of projections, both ways" if byol else "cross-entropy (nats)"
    loss.set(title="Loss", ylabel=what, ylim=(0, None))
    what = "Accuracy" if drawn in ([], ["accuracy"]) else "Score"
    unit, highest = ("score", None) if captions else ("share, 0 to 1", 1)  # CIDEr may exceed 1
    score.set(title=what, ylabel=unit, ylim=(0, highest))
    for axes in (loss, score):
        _finish(axes, "epoch" if by == "epoch" else "optimizer step")
    figure.suptitle(title)
    return figure


def _version(path: Path) -> int:
    number = path.parent.name.removeprefix("version_")
    return int(number) if number.isdecimal() else -1


def _entries(path: Path) -> list[Entry]:
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [
                Entry(
                    name=name,
                    epoch=int(row["epoch"]) + 1,
                    step=int(row["step"]),
                    value=float(value),
                )
                for row in csv.DictReader(file)
                for name, value in row.items()
                if value and name not in ("epoch", "step")
            ]
        except (KeyError, ValueError, TypeError) as e:
            raise InputError(f"{path} is not the log of a run: {e}") from e


def _points(entries: list[Entry], name: str, by: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return float64 (points, 2): position and value."""
    found = [(getattr(entry, by), entry.value) for entry in entries if entry.name == name]
    return np.array(found, np.float64).reshape(-1, 2)


def _draw(axes: Any, points: np.ndarray[Any, Any], label: str, color: str) -> None:
    if len(points):
        axes.plot(*points.T, color=color, label=label, marker="o", markersize=3, linewidth=1.5)


def _draw_steps(axes: Any, points: np.ndarray[Any, Any]) -> None:
    """Plot single steps faintly, and their running mean over about a fiftieth of the run."""
    if not len(points):
        return
    axes.plot(*points.T, color=_TRAINING, alpha=0.3, linewidth=0.7, label="training, a step")
    width = max(1, len(points) // 50)
    kernel = np.full(width, 1 / width)
    where, mean = (np.convolve(column, kernel, mode="valid") for column in points.T)
    if width > 1:
        label = f"mean of {width} such"
        axes.plot(where, mean, color=_TRAINING, linewidth=1.5, label=label)


def _finish(axes: Any, xlabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=3,
            frameon=False,
            fontsize=8,
            handlelength=1.5,
            columnspacing=1.2,
        )
