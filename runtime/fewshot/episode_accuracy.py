"""Accuracy over episodes, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dlcv.runtime.errors import InputError
from dlcv.runtime.fewshot.episodes import Episode, Indices
from dlcv.runtime.results import Float32

Distance: TypeAlias = Callable[[Float32, Float32], Float32]
"""Query (Q, D) and prototypes (classes, D) to scores (Q, classes): more is nearer."""

_NORMAL_95 = 1.96  # of a standard deviation: 95 % of a normal distribution lie within


@dataclass(frozen=True, kw_only=True)
class EpisodeScore:
    """accuracy: mean over episodes. interval: half the width of its 95 % interval, 1.96 s / sqrt(episodes).

    loss: mean cross-entropy. answers: int64 (Q,) of each episode, which of its classes each query is said to be.
    """

    accuracy: float
    interval: float
    loss: float
    answers: tuple[Indices, ...]

    @property
    def episodes(self) -> int:
        """How many there were."""
        return len(self.answers)


def score_episodes(
    embeddings: Float32, episodes: Iterable[Episode], *, distance: Distance
) -> EpisodeScore:
    """Score embeddings on episodes; as each image is embedded by itself, that is done once for all of them.

    embeddings: float32 (N, D), by the images' index.

    Raises:
        InputError: there is no episode.
    """
    answers, shares, losses = [], [], []
    for episode in episodes:
        scores = scores_of(embeddings, episode, distance=distance).astype(np.float64)
        answers.append(scores.argmax(axis=1))
        shares.append(float(np.mean(answers[-1] == episode.labels)))
        losses.append(_cross_entropy(scores, episode.labels))
    if not answers:
        raise InputError("there are no episodes to score on")
    spread = float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0
    return EpisodeScore(
        accuracy=float(np.mean(shares)),
        interval=_NORMAL_95 * spread / math.sqrt(len(shares)),
        loss=float(np.mean(losses)),
        answers=tuple(answers),
    )


def scores_of(embeddings: Float32, episode: Episode, *, distance: Distance) -> Float32:
    """Return how near each query is to each class's prototype, the mean of its support: (Q, classes)."""
    prototypes = np.stack([embeddings[support].mean(axis=0) for support in episode.support])
    return distance(embeddings[episode.query], prototypes)


def _cross_entropy(scores: np.ndarray, labels: Indices) -> float:
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return float(logs.mean())
