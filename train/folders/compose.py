"""Writes the recipe of a run on a folder of images: plain settings with a reason each, to be changed by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dlcv.runtime.errors import RecipeError
from dlcv.train.folders.classify import classify_data
from dlcv.train.folders.images import ImageSettings, image_settings, size_option
from dlcv.train.folders.layout import FolderData
from dlcv.train.folders.run_options import RunOptions, class_names
from dlcv.train.folders.segment import segment_data
from dlcv.train.models import build_model
from dlcv.train.models.answers import require_answers, usual_answers
from dlcv.train.recipe import Recipe, RunRecipe, recipe_from_yaml
from dlcv.train.settings import ModelConfig, Task

EPOCHS = 20
_BATCH = {"classify": 32, "segment": 8}
_RATE_FROM_RANDOM, _RATE_FROM_WEIGHTS = 0.001, 0.0003
_MARGIN = 8 / 7  # training images of classifiers are kept so much larger than crops
_LONGEST_SIDE = 512  # of a segmenter's images, unless --size says otherwise
_MULTIPLE = 32  # by which most segmenters shrink an image
_MULTIPLES = (32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class FolderRecipe:
    """text: the recipe as YAML. files: what must lie beside it, by name: a `py:` network. notes: what was decided."""

    text: str
    name: str
    files: Mapping[str, bytes]
    notes: tuple[str, ...]


def recipe_for_folder(folder: Path, options: RunOptions) -> FolderRecipe:
    """Look at a folder of images and write the recipe that trains a network on them.

    Raises:
        RecipeError: the network or the folder does not fit the task, or each other.
    """
    find = classify_data if options.task == "classify" else segment_data
    data = find(folder, names=class_names(folder, options))
    build_model(
        options.network, options.settings, num_classes=len(data.classes)
    )  # says what is amiss
    images = image_settings(options.network)
    size = options.size or _size(data, images)
    model = _model(options, size)
    settings = {
        **_head(folder, model, data=data, task=options.task),
        **_sizes(images, size, task=options.task),
        "data": data.data,
        **_start(options),
        **_learning(options, data),
        "augment": _augment(size, task=options.task),
        "seed": 1 if options.seed is None else options.seed,
        "data_note": f"The folder {folder.resolve().name}: {data.train_images:,} training images.",
    }
    text = _text(settings, _comments(options, images))
    recipe = recipe_from_yaml(text)
    files = _checked(model, recipe, given_size=options.size is not None)
    return FolderRecipe(text=text, name=recipe.name, files=files, notes=data.notes)


def _checked(model: ModelConfig, recipe: RunRecipe, *, given_size: bool) -> Mapping[str, bytes]:
    """Build the network, run it on two images, and return the files that its checkpoint needs.

    Raises:
        RecipeError: it does not take images of the recipe's size, or gives something else than the task wants.
    """
    assert isinstance(recipe, Recipe)  # tasks classify and segment are
    spec = build_model(model.name, model.options, num_classes=len(recipe.classes))
    try:
        spec = usual_answers(spec, recipe) if model.python_file else spec
        require_answers(spec.network, recipe)
    except RecipeError as e:
        more = "" if given_size else "; the size was chosen here, --size HxW gives another"
        raise RecipeError(f"{e}{more}") from e
    return spec.files


def _model(options: RunOptions, size: tuple[int, int]) -> ModelConfig:
    """Return the network with its options, the size among them if it must be told."""
    told = size_option(options.network, size, options.settings) if options.size else {}
    return ModelConfig(name=options.network, options={**options.settings, **told})


def _head(folder: Path, model: ModelConfig, *, data: FolderData, task: Task) -> dict[str, Any]:
    file = model.python_file
    name = model.with_python_file(Path(file.name)).name if file else model.name
    words = f"{folder.resolve().name} {model.name.rpartition(':')[2]}".lower()
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "run",
        "task": task,
        "description": f"{name} on the images of {folder.resolve().name}",
        "model": {"name": name, "options": model.options},
        "classes": [
            {"name": c.name} if c.color is None else {"name": c.name, "color": list(c.color)}
            for c in data.classes
        ],
    }


def _size(data: FolderData, images: ImageSettings) -> tuple[int, int]:
    """Return the (height, width) that images get: the network's own, or of masks the usual one, made smaller."""
    if data.size is None:
        return images.side, images.side
    scale = min(1.0, _LONGEST_SIDE / max(data.size))
    height, width = (
        max(2, round(side * scale / _MULTIPLE)) * _MULTIPLE for side in data.size
    )  # torch.export needs two multiples or more
    return height, width


def _sizes(images: ImageSettings, size: tuple[int, int], *, task: Task) -> dict[str, Any]:
    preprocessing: dict[str, Any] = {"resize": "stretch", "size": list(size)}
    if task == "segment":
        preprocessing["multiple"] = max(
            m for m in _MULTIPLES if all(side % m == 0 and (side > m or m == 1) for side in size)
        )
    elif images.crop_fraction is not None:
        preprocessing |= {"resize": "center_crop", "crop_fraction": images.crop_fraction}
    return {
        "preprocessing": {**preprocessing, "resample": images.resample},
        "normalization": {"mean": list(images.mean), "std": list(images.std)},
    }


def _start(options: RunOptions) -> dict[str, Any]:
    key = {"weights_key": options.weights_key} if options.weights_key else {}
    if options.weights:
        return {"backbone": options.weights, **key}
    return {"pretrained": options.pretrained or "encoder_weights" in options.settings}


def _learning(options: RunOptions, data: FolderData) -> dict[str, Any]:
    epochs = options.epochs or EPOCHS
    is_random = not (_start(options).get("backbone") or _start(options).get("pretrained"))
    rate = _RATE_FROM_RANDOM if is_random else _RATE_FROM_WEIGHTS
    return {
        "epochs": epochs,
        "batch": options.batch or min(_BATCH[options.task], data.train_images),
        "optimizer": {"name": "adamw", "lr": rate, "weight_decay": 0.05, "clip_norm": 1.0},
        "schedule": {"name": "cosine", "warmup_epochs": min(1.0, epochs / 10)},
    }


def _augment(size: tuple[int, int], *, task: Task) -> dict[str, Any]:
    if task == "segment":
        return {"crop": min(size), "scale": [0.75, 1.5], "flip": True, "jitter": 0.2}
    stored = [math.ceil(side * _MARGIN) for side in size]
    return {"stored": stored, "area": [0.5, 1.0], "crop": min(size), "flip": True, "jitter": 0.2}


def _comments(options: RunOptions, images: ImageSettings) -> dict[str, str]:
    """Return what stands above settings, by the first setting below."""
    start = (
        "Start: a run or weights file (from the working directory), without its head."
        if options.weights
        else "Start: true downloads the published weights; `backbone: FILE` takes a weights file or a run instead."
    )
    masks = " Masks hold class indices; 255 is ignored." if options.task == "segment" else ""
    return {
        "name": "Written by `dlcv-train fit --network`; to be changed as you like. Train it again:\n"
        "dlcv-train fit recipe.yaml --data FOLDER --out runs/NEW",
        "model": "The network; options go to its builder.",
        "classes": "In the order of the network's outputs.",
        "preprocessing": "How images come to the network, in training and in the exported bundle:\n"
        f"{images.source}. Sizes are [height, width].",
        "data": f"Paths in FOLDER.{masks} in_memory: true, false or auto (streamed, if it is large).",
        next(iter(_start(options))): start,
        "epochs": "How long, and how fast. batch x accumulate images make a step.",
        "augment": "Random changes of training images.",
    }


def _text(settings: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return settings as YAML with comments."""
    lines: list[str] = []
    for key, value in settings.items():
        if key in comments:
            lines += ["", *(f"# {line}" for line in comments[key].splitlines())]
        lines.append(
            yaml.safe_dump(
                {key: value},
                sort_keys=False,
                allow_unicode=True,
                default_flow_style=None if isinstance(value, (dict, list)) else False,
                width=110,
            ).rstrip()
        )
    return "\n".join(lines).lstrip() + "\n"
