"""Loss functions. All take logits, NOT probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcv.train.data.batches import IGNORE_LABEL
from dlcv.train.data.streamed import AnyDataset
from dlcv.train.settings import LossConfig


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened predictions, times the temperature squared.

    Hinton, Vinyals, Dean 2015 (https://arxiv.org/abs/1503.02531). Teacher and student must have seen
    the same crop (Beyer et al. 2021, https://arxiv.org/abs/2106.05237).

    student, teacher: logits, float (B, classes).
    """
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2


def class_weights(dataset: AnyDataset, config: LossConfig, *, num_classes: int) -> Tensor | None:
    """Return the loss weight of every class, float32 (classes,) with mean 1, or None for equal weights."""
    if config.class_weights == "none":
        return None
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in dataset.chunks():
        found = torch.bincount(part.labels.flatten().long(), minlength=IGNORE_LABEL + 1)
        counts += found[:num_classes]
    weights = 1 / torch.log(config.log_offset + counts / counts.sum().clamp(min=1))
    return (weights / weights.mean()).float()
