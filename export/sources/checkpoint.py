"""Checkpoints that dlcv trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dlcv.export.sources.base import ExportSource, SourceOptions, read_classes, with_size
from dlcv.runtime.errors import InputError
from dlcv.runtime.manifest import Metric
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.recipe import Recipe, builtin_recipes, load_recipe

if TYPE_CHECKING:
    from dlcv.train.checkpoint import Checkpoint

_NOT_METRICS = ("images", "epoch")


def source_from_checkpoint(folder: Path, options: SourceOptions) -> ExportSource:
    """Load a checkpoint folder. Size and class names may be changed; weights may not.

    Raises:
        RecipeError: not a checkpoint, or a damaged one.
        InputError: options that do not fit.
    """
    if options.weights is not None or options.random:
        raise InputError(
            f"{folder} holds its weights; --weights and --random are for timm: and torchvision:"
        )
    checkpoint = load_checkpoint(folder, Recipe)
    recipe = checkpoint.recipe
    classes = recipe.classes
    if options.classes is not None:
        classes = read_classes(options.classes)
        if len(classes) != len(recipe.classes):
            raise InputError(
                f"{options.classes} names {len(classes)} classes, the checkpoint has {len(recipe.classes)}"
            )
    return ExportSource(
        model=checkpoint.model,
        name=recipe.name,
        task=recipe.task,
        classes=classes,
        preprocessing=with_size(recipe.preprocessing, options.size),
        mean=recipe.normalization.mean,
        std=recipe.normalization.std,
        description=recipe.description,
        licence=recipe.licence_note or "not stated",
        origin=f"checkpoint of recipe {recipe.name}",
        data=recipe.data_note or f"The data set `{recipe.data.name}`.",
        remake=(
            f"dlcv-train fit {_recipe_argument(recipe)} --data DATA --out runs/{recipe.name}",
            f"dlcv-export bundle runs/{recipe.name}{options.command_line}",
        ),
        metrics=_metrics(checkpoint),
        recipe=msgspec.to_builtins(recipe),
    )


def _recipe_argument(recipe: Recipe) -> str:
    """Return what `dlcv-train fit` takes: the name of a built-in recipe, or a file to be written."""
    built_in = recipe.name in builtin_recipes() and load_recipe(recipe.name) == recipe
    return recipe.name if built_in else "recipe.yaml"


def _metrics(checkpoint: Checkpoint[Recipe]) -> tuple[Metric, ...]:
    """Return the numbers of `metrics.json`; those by class as `name.class`."""
    images = checkpoint.metrics.get("images")
    count = f"{images:,} " if _is_number(images) else ""
    data = f"{count}images of {checkpoint.recipe.data.name} that were not trained on"
    flat: dict[str, Any] = {}
    for name, value in checkpoint.metrics.items():
        by_class = value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}.{k}": v for k, v in by_class}
        flat[name] = value
    return tuple(
        Metric(name=name, value=float(value), data=data)
        for name, value in flat.items()
        if _is_number(value) and name not in _NOT_METRICS
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
