"""Accuracy over few-shot episodes, with its 95 % confidence interval."""

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

_NORMAL_95 = 1.96  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True, kw_only=True)
class EpisodeScore:
    """The accuracy over episodes.

    accuracy: mean over episodes. interval: half the width of its 95 % confidence interval, 1.96 s /
    sqrt(episodes). loss: mean cross-entropy. answers: int64 (Q,) for each episode, the predicted class of each
    query within the episode.
    """

    accuracy: float
    interval: float
    loss: float
    answers: tuple[Indices, ...]

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return len(self.answers)


def score_episodes(
    embeddings: Float32, episodes: Iterable[Episode], *, distance: Distance
) -> EpisodeScore:
    """Score embeddings on episodes. Each image is embedded only once, for all episodes.

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
    """Return the scores of each query against each class's prototype, the mean of its support: (Q, classes)."""
    prototypes = np.stack([embeddings[support].mean(axis=0) for support in episode.support])
    return distance(embeddings[episode.query], prototypes)


def _cross_entropy(scores: np.ndarray, labels: Indices) -> float:
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return float(logs.mean())
