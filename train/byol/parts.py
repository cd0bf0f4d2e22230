"""The parts of BYOL: projector, predictor, loss, and the target's moving average.

Grill et al. 2020, https://arxiv.org/abs/2006.07733.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcv.train.byol.recipe import ByolConfig


def mlp(in_features: int, config: ByolConfig) -> nn.Sequential:
    """Return a projector or predictor: (B, in_features) to (B, projection)."""
    return nn.Sequential(
        nn.Linear(in_features, config.hidden),
        nn.BatchNorm1d(config.hidden),
        nn.ReLU(inplace=True),
        nn.Linear(config.hidden, config.projection),
    )


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared distance of normalised vectors, 2 - 2 cos, in 0..4: equation 2 of the paper.

    prediction: float (B, projection) of one view. target: the same of the other view, without gradient.
    """
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.detach().float(), dim=1).mean()


def decay_at(step: int, *, steps: int, config: ByolConfig) -> float:
    """Return the target's decay at a step: from `decay` at 0 to 1 at `steps` (appendix B of the paper)."""
    if config.decay_schedule == "constant":
        return config.decay
    progress = min(1.0, step / max(1, steps))
    return 1 - (1 - config.decay) * (math.cos(math.pi * progress) + 1) / 2


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, *, decay: float) -> None:
    """Update the target's parameters from the online ones: target = decay target + (1 - decay) online."""
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def spread(vectors: Tensor) -> float:
    """Return the spread of vectors (B, D): 1 if directions are uniform, 0 if all are equal (collapse).

    Computed as the standard deviation of normalised vectors, mean over the dimensions, times sqrt(D) (Chen and
    He 2020, https://arxiv.org/abs/2011.10566, section 4.1).
    """
    unit = F.normalize(vectors.detach().float(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(unit.shape[1]))
