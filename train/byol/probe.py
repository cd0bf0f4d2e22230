"""A linear probe: logistic regression on frozen embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 100


def probe_accuracy(
    known: tuple[Tensor, Tensor],
    asked: tuple[Tensor, Tensor],
    *,
    classes: int,
    weight_decay: float,
) -> float:
    """Fit a linear layer on `known` and return its accuracy on `asked`.

    Each is (embeddings float (N, D), labels int64 (N,)). Embeddings are standardised by the statistics of
    `known`. L-BFGS minimises the loss from zero weights, so the result is deterministic.
    """
    with torch.inference_mode(False), torch.enable_grad():
        features, labels = (tensor.clone() for tensor in known)
        mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
        layer = _solved((features - mean) / std, labels, classes, weight_decay=weight_decay)
    with torch.no_grad():
        answers = layer((asked[0] - mean) / std).argmax(1)
    return float((answers == asked[1]).float().mean())


def _solved(
    features: Tensor, labels: Tensor, classes: int, *, weight_decay: float
) -> Callable[[Tensor], Tensor]:
    """Return the linear layer that minimises the loss."""
    weight = features.new_zeros(classes, features.shape[1]).requires_grad_()
    bias = features.new_zeros(classes).requires_grad_()
    optimizer: Any = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), labels)
        value = value + 0.5 * weight_decay * weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)
    return partial(F.linear, weight=weight.detach(), bias=bias.detach())
