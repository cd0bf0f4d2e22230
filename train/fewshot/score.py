"""Accuracy over episodes, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from dlcv.train.fewshot.episodes import Episode

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # as in `dlcv.train.fewshot.distance`

_NORMAL_95 = 1.96  # of a standard deviation: 95 % of a normal distribution lie within


@dataclass(frozen=True, kw_only=True)
class EpisodeScore:
    """accuracy: mean over episodes. interval: half the width of its 95 % interval, 1.96 s / sqrt(episodes).

    loss: mean cross-entropy.
    """

    accuracy: float
    interval: float
    loss: float
    episodes: int


def score_episodes(
    embeddings: Tensor, episodes: Iterable[Episode], *, distance: Distance
) -> EpisodeScore:
    """Score embeddings on episodes; as each image is embedded by itself, that is done once for all of them.

    embeddings: float (N, D), by the images' index.
    """
    hits, losses = [], []
    for episode in episodes:
        scores = scores_of(embeddings, episode, distance=distance).float()
        labels = episode.labels.to(scores.device)
        hits.append((scores.argmax(dim=1) == labels).float().mean())
        losses.append(F.cross_entropy(scores, labels))
    shares = torch.stack(hits).double()
    spread = float(shares.std()) if len(shares) > 1 else 0.0
    return EpisodeScore(
        accuracy=float(shares.mean()),
        interval=_NORMAL_95 * spread / math.sqrt(len(shares)),
        loss=float(torch.stack(losses).mean()),
        episodes=len(shares),
    )


def scores_of(embeddings: Tensor, episode: Episode, *, distance: Distance) -> Tensor:
    """Return how near each query is to each class's prototype, the mean of its support: (Q, classes)."""
    prototypes = torch.stack([embeddings[support].mean(dim=0) for support in episode.support])
    return distance(embeddings[episode.query], prototypes)
