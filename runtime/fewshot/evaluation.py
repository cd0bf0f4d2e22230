"""Evaluates few-shot classification with a bundle: accuracy over episodes of classes that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcv.runtime.errors import InputError
from dlcv.runtime.fewshot.distance import BundleDistance, averageable
from dlcv.runtime.fewshot.episode_accuracy import EpisodeScore, score_episodes
from dlcv.runtime.fewshot.episodes import EpisodeConfig, EpisodeSampler, episodes_from_csv
from dlcv.runtime.fewshot.prototypes import vector_of
from dlcv.runtime.images import source_of
from dlcv.runtime.results import Refused

if TYPE_CHECKING:
    from dlcv.runtime.fewshot.episodes import Episode
    from dlcv.runtime.fewshot.support import SupportImages
    from dlcv.runtime.running.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """Which episodes to score.

    ways: classes per episode. shots: support images per class; each number is evaluated separately. queries:
    query images per class. episodes: how many. seed: of the drawing; a recipe's seed gives the episodes of
    `dlcv-train evaluate`. file: a CSV of fixed episodes, used instead of all these.
    """

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    episodes: int = 600
    seed: int = 0
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.ways < 2:
            raise InputError("an episode has two or more ways: one class is no choice")
        if not self.shots or min(*self.shots, self.queries, self.episodes) < 1:
            raise InputError("shots, queries and episodes must be 1 or more")

    def drawn(
        self, labels: np.ndarray[Any, Any], *, classes: Sequence[str], files: Sequence[str]
    ) -> dict[str, Sequence[Episode]]:
        """Return the episodes for images with int64 (N,) labels and names, by the name of their number of shots.

        Raises:
            InputError: there are not as many classes or images, or the CSV does not fit.
        """
        if self.file is not None:
            return {"fixed": episodes_from_csv(self.file, files)}
        drawn: dict[str, Sequence[Episode]] = {}
        for shots in self.shots:
            config = EpisodeConfig(
                ways=self.ways, shots=shots, queries=self.queries, episodes=self.episodes
            )
            sampler = EpisodeSampler(labels, config, names=classes, seed=self.seed)
            drawn[f"{shots}-shot"] = tuple(sampler)
        return drawn


@dataclass(frozen=True, kw_only=True)
class EpisodeEvaluation:
    """The scores of a bundle.

    scores: by number of shots, such as `5-shot`; `fixed` for episodes from a file. classes, images: how many
    there are to draw from. refused: images that could not be read, each with the reason. seconds: from reading
    the first image to the last episode. ran: what ran, as `Predictor.description`.
    """

    scores: dict[str, EpisodeScore]
    ways: int | None
    classes: int
    images: int
    refused: tuple[str, ...]
    seconds: float
    ran: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the metrics for JSON, under the names that training uses."""
        first = next(iter(self.scores.values()))
        return {
            "accuracy": first.accuracy,
            "interval": first.interval,
            "shots": {name: score.accuracy for name, score in self.scores.items()},
            "intervals": {f"{name} ±": score.interval for name, score in self.scores.items()},
            "episodes": first.episodes,
            **({} if self.ways is None else {"ways": self.ways}),
            "classes": self.classes,
            "images": self.images,
            "refused": list(self.refused),
            "images_per_second": round(self.images / self.seconds, 2),
            "ran": self.ran,
        }


def evaluate_episodes(
    predictor: Predictor,
    images: SupportImages,
    options: EpisodeOptions,
    *,
    on_progress: Callable[[], object] | None = None,
) -> EpisodeEvaluation:
    """Score a bundle's embeddings on episodes of labelled images, with the distance that `fewshot` uses.

    images: by class. Unreadable images are skipped and reported; episodes are drawn from the others.

    Raises:
        InputError: the classes or images are too few for the episodes.
        BundleError: the bundle gives no embeddings.
    """
    start = time.perf_counter()
    items = [(label, item) for label, name in enumerate(images) for item in images[name]]
    vectors, labels, files, refused = [], [], [], []
    results = predictor.stream(source_of(item.name, item.read) for _, item in items)
    for (label, item), result in zip(items, results, strict=True):
        if isinstance(result, Refused):
            refused.append(f"{item.name}: {result.reason}")
        else:
            vectors.append(vector_of(result))
            labels.append(label)
            files.append(item.name)
        if on_progress:
            on_progress()
    if not vectors:
        raise InputError(f"no image could be read; {refused[0] if refused else 'there are none'}")
    drawn = options.drawn(np.array(labels), classes=tuple(images), files=files)
    embeddings = averageable(np.stack(vectors), predictor.bundle)
    with BundleDistance(predictor) as distance:
        scores = {
            name: score_episodes(embeddings, episodes, distance=distance)
            for name, episodes in drawn.items()
        }
    return EpisodeEvaluation(
        scores=scores,
        ways=None if options.file else options.ways,
        classes=len(images),
        images=len(vectors),
        refused=tuple(refused),
        seconds=time.perf_counter() - start,
        ran=predictor.description(),
    )
