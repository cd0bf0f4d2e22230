"""Loads checkpoints that dlcv trained as export sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from dlcv.export.sources.base import (
    ExportSource,
    SourceOptions,
    activation_of_classifier,
    read_classes,
    with_size,
)
from dlcv.runtime.bundle.schema import ClassInfo, Metric
from dlcv.runtime.caption.vocabulary import TOKENIZER_FILE
from dlcv.runtime.errors import InputError
from dlcv.train.byol.recipe import ByolRecipe
from dlcv.train.caption.evaluate import vocabulary_of
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.checkpoint import Checkpoint, load_checkpoint
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.recipe import Recipe, RunRecipe, builtin_recipes, load_recipe

_NOT_METRICS = {  # counts, or figures not of this network on new images
    "images",
    "epoch",
    "remembered",
    "random_accuracy",
    "spread",
}


def source_from_checkpoint(folder: Path, options: SourceOptions) -> ExportSource:
    """Load a checkpoint folder. Size and class names can be changed, weights cannot.

    Raises:
        RecipeError: not a checkpoint, or a damaged one.
        InputError: options that do not fit.
    """
    if options.weights is not None or options.random:
        raise InputError(
            f"{folder} holds its weights; --weights and --random are for timm: and torchvision:"
        )
    checkpoint = load_checkpoint(folder)
    recipe = checkpoint.recipe
    if isinstance(recipe, (FewShotRecipe, ByolRecipe)):
        if options.classes is not None:
            raise InputError(f"{folder} has no classes of its own; leave out --classes")
        distance = getattr(checkpoint.model, "distance", None)  # BYOL has none
        kind: dict[str, Any] = {"task": "embed", "classes": (), "distance": distance}
        data = f"The data set `{recipe.data.name}`."
    elif isinstance(recipe, CaptionRecipe):
        kind = _captioner(checkpoint, options)
        data = f"The data set `{recipe.data.root}`."
    elif isinstance(recipe, Recipe):
        kind = {"task": recipe.task, "classes": _classes(recipe, options)}
        data = f"The data set `{recipe.data.name}`."
    else:
        raise InputError(f"a checkpoint of task {recipe.task} cannot be exported")
    return ExportSource(
        model=checkpoint.model,
        name=recipe.name,
        preprocessing=with_size(recipe.preprocessing, options.size),
        mean=recipe.normalization.mean,
        std=recipe.normalization.std,
        description=recipe.description,
        licence=recipe.licence_note or "not stated",
        origin=f"checkpoint of recipe {recipe.name}",
        data=recipe.data_note or data,
        remake=(
            f"dlcv-train fit {_recipe_argument(recipe)} --data DATA --out runs/{recipe.name}",
            f"dlcv-export bundle runs/{recipe.name}{options.command_line}",
        ),
        metrics=_metrics(recipe, checkpoint.metrics),
        recipe=msgspec.to_builtins(recipe),
        **activation_of_classifier(options, task=kind["task"]),
        **kind,
    )


def _classes(recipe: Recipe, options: SourceOptions) -> tuple[ClassInfo, ...]:
    if options.classes is None:
        return recipe.classes
    classes = read_classes(options.classes)
    if len(classes) != len(recipe.classes):
        raise InputError(
            f"{options.classes} names {len(classes)} classes, the checkpoint has {len(recipe.classes)}"
        )
    return classes


def _captioner(checkpoint: Checkpoint[Any], options: SourceOptions) -> dict[str, Any]:
    if options.classes is not None or options.size is not None:
        raise InputError(
            f"{checkpoint.path} has its vocabulary and its size; leave out --classes and --size"
        )
    vocabulary = vocabulary_of(checkpoint)
    return {"task": "caption", "classes": (), "files": {TOKENIZER_FILE: vocabulary.to_json()}}


def _recipe_argument(recipe: RunRecipe) -> str:
    """Return the argument of `dlcv-train fit`: the name of a built-in recipe, or a file to be written."""
    built_in = recipe.name in builtin_recipes() and load_recipe(recipe.name) == recipe
    return recipe.name if built_in else "recipe.yaml"


def _metrics(
    recipe: Recipe | FewShotRecipe | ByolRecipe | CaptionRecipe, metrics: dict[str, Any]
) -> tuple[Metric, ...]:
    """Return the numbers of `metrics.json` with what they were measured on; those by class as `name.class`."""
    if isinstance(recipe, FewShotRecipe):
        return _episode_metrics(recipe, metrics)
    images = metrics.get("images")
    count = f"{images:,} " if _is_number(images) else ""
    name = recipe.data.root if isinstance(recipe, CaptionRecipe) else recipe.data.name
    data = f"{count}images of {name} that were not trained on"
    if isinstance(recipe, ByolRecipe):
        random = metrics.get("random_accuracy")
        than = f"; random weights: {random:.3f}" if _is_number(random) else ""
        data += f", by a linear layer on the embedding{than}"
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        by_class = value.items() if isinstance(value, dict) else ()
        flat |= {f"{key}.{k}": v for k, v in by_class}
        flat[key] = value
    return tuple(
        Metric(name=key, value=float(value), data=data)
        for key, value in flat.items()
        if _is_number(value) and key not in _NOT_METRICS
    )


def _episode_metrics(recipe: FewShotRecipe, metrics: dict[str, Any]) -> tuple[Metric, ...]:
    """Return the accuracy of a few-shot network by number of shots, with its interval as text."""
    first = f"{recipe.test.shots}-shot"
    found = {first: (metrics.get("accuracy"), metrics.get("interval"))}
    intervals = metrics.get("intervals", {})
    found |= {name: (v, intervals.get(f"{name} ±")) for name, v in metrics.get("shots", {}).items()}
    of = f"{metrics.get('episodes')} {recipe.test.ways}-way episodes of classes that were not trained on"
    return tuple(
        Metric(
            name=f"accuracy, {name}", value=float(value), data=f"{of}; 95 % interval ± {half:.4f}"
        )
        for name, (value, half) in found.items()
        if _is_number(value) and _is_number(half)
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
