"""Compares pre-training: the same task trained from five starts, as in reports B and D (B6, D5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from dlcv.runtime.bundle.report import table
from dlcv.runtime.errors import RecipeError
from dlcv.runtime.machine.atomic_files import write_atomically
from dlcv.train.checkpoint import METRICS_FILE, RECIPE_FILE, load_run
from dlcv.train.fit import RESUME_FILE, fit
from dlcv.train.hardware import Hardware
from dlcv.train.plan import RANDOM_START, start_words
from dlcv.train.recipe import Recipe, changed, load_recipe, portable
from dlcv.train.tasks import task_kind

Start: TypeAlias = Literal["none", "supervised", "byol"]
TABLE_FILE = "transfer.json"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its initial backbone, and whether all layers are trained (`all`) or only the head (`head`)."""

    name: str
    start: Start
    learns: Literal["all", "head"]


SETTINGS = (
    Setting(name="a", start="none", learns="all"),
    Setting(name="b", start="supervised", learns="all"),
    Setting(name="c", start="byol", learns="all"),
    Setting(name="d", start="supervised", learns="head"),
    Setting(name="e", start="byol", learns="head"),
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a setting: its best epoch, and accuracy on `images` test images."""

    setting: Setting
    accuracy: float
    epoch: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to compare.

    family: the recipes' common name without `-a` to `-e`; of built-in recipes, or of YAML files, then with a
    path. backbones: a run or weights file by start, instead of those in the recipes. out: gets one folder per
    setting, and the table.
    """

    family: str
    out: Path
    backbones: Mapping[Start, str | None]


def compare(comparison: Comparison, root: Path, *, hardware: Hardware) -> Iterator[Outcome]:
    """Train every setting in turn and yield its outcome. Finished runs are read, unfinished ones are resumed.

    Raises:
        RecipeError: a recipe or backbone is missing or does not fit, or `out` holds runs of other recipes.
    """
    recipes = [_recipe(comparison, setting) for setting in SETTINGS]  # before the first long run
    for setting, recipe in zip(SETTINGS, recipes, strict=True):
        if _measured(comparison.out / setting.name, recipe) is None:
            _require_start(setting, recipe)
    outcomes: list[Outcome] = []
    for setting, recipe in zip(SETTINGS, recipes, strict=True):
        folder = comparison.out / setting.name
        metrics = _measured(folder, recipe)
        if metrics is None:
            resume = (folder / RESUME_FILE).exists()
            metrics = fit(recipe, root, out=folder, resume=resume, hardware=hardware)
        outcome = msgspec.convert({**metrics, "setting": setting}, Outcome)
        outcomes.append(outcome)
        _save_table(comparison.out / TABLE_FILE, outcomes)
        yield outcome


def table_lines(outcomes: list[Outcome]) -> list[str]:
    """Return the outcomes as the lines of a table."""
    rows = [("setting", "backbone", "learns", "accuracy", "images", "best epoch")]
    for outcome in outcomes:
        setting = outcome.setting
        start = "random" if setting.start == "none" else setting.start
        learns = "all layers" if setting.learns == "all" else "head only"
        counts = (f"{outcome.images:,}", str(outcome.epoch))
        rows.append((setting.name.upper(), start, learns, f"{outcome.accuracy:.4f}", *counts))
    return table(rows)


def _save_table(path: Path, outcomes: list[Outcome]) -> None:
    text = msgspec.json.format(msgspec.json.encode(outcomes), indent=2)
    write_atomically(path, lambda file: file.write(text))


def _recipe(comparison: Comparison, setting: Setting) -> Recipe:
    name = f"{comparison.family}-{setting.name}"
    file = Path(f"{name}.yaml")
    recipe = load_recipe(file if file.is_file() else name, Recipe)
    if recipe.task != "classify":
        raise RecipeError(f"{name} is of task {recipe.task}; settings A to E compare classifiers")
    return changed(recipe, backbone=comparison.backbones.get(setting.start))


def _require_start(setting: Setting, recipe: Recipe) -> None:
    """Check that a setting has a backbone to start from, and that it fits."""
    if recipe.backbone is not None:
        spec = task_kind(recipe.task).network(recipe)
        load_run(spec, recipe.backbone, key=recipe.weights_key)
    elif setting.start != "none" and start_words(recipe) == RANDOM_START:
        raise RecipeError(
            f"setting {setting.name.upper()} starts from a {setting.start} backbone and {recipe.name} names none;"
            f" give --{setting.start} RUN"
        )


def _measured(folder: Path, recipe: Recipe) -> dict[str, float] | None:
    """Return the metrics of a finished run, or None."""
    if not (folder / METRICS_FILE).is_file():
        return None
    if portable(load_recipe(folder / RECIPE_FILE)) != portable(recipe):
        raise RecipeError(f"the run in {folder} has another recipe; give another --out")
    metrics: dict[str, float] = msgspec.json.decode((folder / METRICS_FILE).read_bytes())
    return metrics if "images" in metrics else None
