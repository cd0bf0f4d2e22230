"""The optimizer and learning-rate schedule of a recipe."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dlcv.train.recipe import RunRecipe
from dlcv.train.settings import OptimizerConfig


def optimizer_for(
    network: nn.Module,
    config: OptimizerConfig,
    *,
    backbone: nn.Module,
    head: tuple[str, ...] = (),
) -> Optimizer:
    """Return the optimizer over every trainable parameter, in up to four groups.

    One-dimensional parameters (biases, normalisation) and position embeddings get no weight decay. head:
    prefixes of the backbone's parameters that learn at the full rate. If the backbone is the whole network and
    names no head, everything learns at one rate.
    """
    in_backbone = {
        id(p)
        for name, p in backbone.named_parameters()
        if (head or backbone is not network) and not (head and name.startswith(head))
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
            groups.setdefault((id(parameter) in in_backbone, decayed), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": config.lr * (config.backbone_lr_scale if pretrained else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (pretrained, decayed), parameters in groups.items()
    ]
    if config.name == "sgd":
        return SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return (Adam if config.name == "adam" else AdamW)(settings, lr=config.lr)


def schedule_for(optimizer: Optimizer, recipe: RunRecipe, *, steps: int) -> LambdaLR:
    """Return the schedule: linear warm-up, then decay as the recipe says, over `steps` steps."""
    config = recipe.schedule
    warmup = round(steps * config.warmup_epochs / recipe.epochs)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.name == "constant":
            return 1.0
        if config.name == "steps":
            epoch = step * recipe.epochs // steps
            return config.factor ** (epoch // config.step_epochs)
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        if config.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return float((1 - progress) ** config.power)

    return LambdaLR(optimizer, factor)
