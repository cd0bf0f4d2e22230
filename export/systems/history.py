"""Reads a run's training history from its folder."""

from __future__ import annotations

from pathlib import Path

from dlcv.export.systems.records import Training
from dlcv.train.checkpoint import Checkpoint
from dlcv.train.figures.curves import read_log
from dlcv.train.fit import RESUME_FILE
from dlcv.train.recipe import RunRecipe
from dlcv.train.tasks import task_kind


def training_from_run(
    checkpoint: Checkpoint[RunRecipe], *, minutes: float | None = None, note: str = ""
) -> Training:
    """Return a run's training record. minutes: of training; None means by the times of the run's files.

    Raises:
        InputError: the run has no log.
    """
    recipe, kept = checkpoint.recipe, int(checkpoint.metrics["epoch"])
    log = read_log(checkpoint.path)
    ran = max(entry.epoch for entry in log)
    monitor = task_kind(recipe.task).monitor
    scored = {entry.epoch: entry.value for entry in log if entry.name == monitor}
    trained = {entry.epoch: entry.value for entry in log if entry.name == "train_accuracy_epoch"}
    shown = sorted({*recipe.snapshots, kept, ran} & set(scored))
    return Training(
        epochs=recipe.epochs,
        ran=ran,
        kept=kept,
        minutes=minutes if minutes is not None else _minutes(checkpoint.path),
        train_accuracy=trained.get(kept),
        validation={epoch: scored[epoch] for epoch in shown},
        note=note,
    )


def _minutes(run: Path) -> float | None:
    """Return the minutes from the log's creation to the end of the last epoch.

    None for a run that was resumed or moved.
    """
    end = run / RESUME_FILE
    logs = list(run.glob("log/version_*"))
    if len(logs) != 1 or not end.is_file():
        return None
    seconds = end.stat().st_mtime - (run / "log").stat().st_mtime
    return round(seconds / 60, 1) if seconds > 0 else None
