"""The parts of a supervised training run: classification or segmentation."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dlcv.train.data.module import RecipeData
from dlcv.train.evaluate import evaluate
from dlcv.train.losses import class_weights
from dlcv.train.models import ModelSpec, build_model
from dlcv.train.models.answers import require_answers, usual_answers
from dlcv.train.modules import RecipeModule
from dlcv.train.recipe import Recipe
from dlcv.train.settings import DistillConfig, Normalization
from dlcv.train.tasks import TaskKind
from dlcv.train.weights import fitted_weights, load_weights


def _network(recipe: Recipe) -> ModelSpec:
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=len(recipe.classes))
    return usual_answers(spec, recipe) if recipe.model.python_file else spec


def _module(recipe: Recipe, spec: ModelSpec, data: RecipeData) -> RecipeModule:
    require_answers(spec.network, recipe)
    weights = class_weights(data.train_set, recipe.loss, num_classes=len(recipe.classes))
    return RecipeModule(recipe, spec, class_weights=weights, teacher=_teacher(recipe, data.root))


class Teacher(nn.Module):
    """A network that a student follows: it takes the student's pixels, and gives logits of the student's classes."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, config: DistillConfig, normalization: Normalization
    ) -> None:
        """Wrap a network. normalization: of the pixels that the student gets."""
        super().__init__()
        self.network = network.requires_grad_(False)
        self._classes = list(config.classes)
        own = config.normalization or normalization
        given_std, own_std = torch.tensor(normalization.std), torch.tensor(own.std)
        shift = torch.tensor(normalization.mean) - torch.tensor(own.mean)
        self.register_buffer("scale", (given_std / own_std)[:, None, None])
        self.register_buffer("shift", (shift / own_std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes) of pixels (B, 3, H, W), normalised for the student."""
        logits: Tensor = self.network(pixels * self.scale + self.shift)
        return logits[:, self._classes] if self._classes else logits


def _teacher(recipe: Recipe, root: Path) -> Teacher | None:
    config = recipe.distill
    if config is None:
        return None
    path, classes = root / config.weights, config.outputs or len(recipe.classes)
    network = build_model(config.model.name, config.model.options, num_classes=classes).network
    load_weights(network, fitted_weights(network, path).state, source=str(path))
    return Teacher(network, config, recipe.normalization)


CLASSIFY = TaskKind(
    monitor="accuracy", network=_network, data=RecipeData, module=_module, evaluate=evaluate
)
SEGMENT = TaskKind(
    monitor="mean_iou", network=_network, data=RecipeData, module=_module, evaluate=evaluate
)
