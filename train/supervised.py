"""The parts of a supervised training run: classification or segmentation."""

from __future__ import annotations

from pathlib import Path

import torch

from dlcv.train.data.module import RecipeData
from dlcv.train.evaluate import evaluate
from dlcv.train.losses import class_weights
from dlcv.train.models import ModelSpec, build_model
from dlcv.train.models.answers import require_answers, usual_answers
from dlcv.train.modules import RecipeModule
from dlcv.train.recipe import Recipe
from dlcv.train.tasks import TaskKind
from dlcv.train.weights import fitted_weights, load_weights


def _network(recipe: Recipe) -> ModelSpec:
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=len(recipe.classes))
    return usual_answers(spec, recipe) if recipe.model.python_file else spec


def _module(recipe: Recipe, spec: ModelSpec, data: RecipeData) -> RecipeModule:
    require_answers(spec.network, recipe)
    weights = class_weights(data.train_set, recipe.loss, num_classes=len(recipe.classes))
    return RecipeModule(recipe, spec, class_weights=weights, teacher=_teacher(recipe, data.root))


def _teacher(recipe: Recipe, root: Path) -> torch.nn.Module | None:
    config = recipe.distill
    if config is None:
        return None
    path = root / config.weights
    spec = build_model(config.model.name, config.model.options, num_classes=len(recipe.classes))
    load_weights(spec.network, fitted_weights(spec.network, path).state, source=str(path))
    return spec.network.requires_grad_(False)


CLASSIFY = TaskKind(
    monitor="accuracy", network=_network, data=RecipeData, module=_module, evaluate=evaluate
)
SEGMENT = TaskKind(
    monitor="mean_iou", network=_network, data=RecipeData, module=_module, evaluate=evaluate
)
