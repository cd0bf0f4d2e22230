"""The summary that is printed before a run starts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import nn

    from dlcv.train.recipe import RunRecipe

RANDOM_START = "random numbers"


def plan_lines(
    recipe: RunRecipe,
    network: nn.Module,
    *,
    trainer: Trainer,
    batches: int,
    left_out: list[str],
) -> list[str]:
    """Return the plan as lines. batches: per epoch, on each device.

    left_out: tensors that keep random weights although `weights` or `pretrained` is set.
    """
    steps = math.ceil(batches / recipe.accumulate)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters()) - trained
    lines = [
        f"{recipe.name}: {recipe.description}",
        f"steps: {recipe.epochs} epochs x {steps:,} = {recipe.epochs * steps:,}; {_batch(recipe, trainer)}",
        f"learning: {recipe.optimizer.name}, rate {recipe.optimizer.lr:g}, {_schedule(recipe)}",
        f"parameters: {trained:,} trained, {frozen:,} frozen; {_start(recipe, left_out)}",
        f"on: {trainer.world_size} x {trainer.strategy.root_device.type}, {recipe.precision}",
    ]
    if recipe.stop is not None:
        lines[1] += f"; stops after {recipe.stop.patience} scores without improvement"
    return lines


def _batch(recipe: RunRecipe, trainer: Trainer) -> str:
    factors = {"accumulated": recipe.accumulate, "devices": trainer.world_size}
    more = [f"x {count} {name}" for name, count in factors.items() if count > 1]
    effective = recipe.batch * recipe.accumulate * trainer.world_size
    return " ".join([f"batch {recipe.batch}", *more, *([f"= {effective}"] if more else [])])


def _schedule(recipe: RunRecipe) -> str:
    schedule = recipe.schedule
    warmup = (
        f"{schedule.warmup_epochs:g} epochs of warm-up, then " if schedule.warmup_epochs else ""
    )
    power = f" of power {schedule.power:g} to 0" if schedule.name == "poly" else ""
    return f"{warmup}{schedule.name}{power}"


def start_words(recipe: RunRecipe) -> str:
    """Return a description of the weights that a run starts from."""
    file = recipe.weights or recipe.backbone
    return file or ("published weights" if recipe.pretrained else RANDOM_START)


def _start(recipe: RunRecipe, left_out: list[str]) -> str:
    apart = f" but for {', '.join(left_out)}" if left_out else ""
    return f"start: {start_words(recipe)}{apart}"
