"""Evaluates a prototypical network's checkpoint on classes that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.fewshot.episode_accuracy import EpisodeScore, score_episodes
from dlcv.runtime.fewshot.episodes import Episode, episodes_from_csv
from dlcv.runtime.results import Float32
from dlcv.train.checkpoint import Checkpoint
from dlcv.train.data.batches import Dataset, PlainBatches
from dlcv.train.fewshot.data import EMBEDDED_AT_ONCE, ClassSplit, load_split
from dlcv.train.fewshot.distance import distance_on_arrays
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.modules import normalised


def evaluate(checkpoint: Checkpoint[FewShotRecipe], root: Path) -> dict[str, Any]:
    """Return the mean accuracy over the test episodes, `interval` (half of the 95 % one), and what was tested.

    With `test_shots` also `shots` and `intervals`, the same by number of shots.

    Raises:
        RecipeError: the data are missing or do not fit.
    """
    recipe = checkpoint.recipe
    split = load_split(recipe, root, split="test")
    embeddings = embedded(checkpoint, split.images)
    distance = distance_on_arrays(checkpoint.model.distance)
    score = partial(score_episodes, embeddings, distance=distance)
    by_shots = {}
    for shots in recipe.test_shots:
        config = msgspec.structs.replace(recipe.test, shots=shots)
        drawn = split.sampler(config, split="test", seed=recipe.seed)
        by_shots[f"{shots}-shot"] = score(drawn)
    first = score(episodes_of_test(recipe, split, root))
    return _metrics(first, by_shots, ways=recipe.test.ways, images=len(split.images))


def episodes_of_test(recipe: FewShotRecipe, split: ClassSplit, root: Path) -> Iterable[Episode]:
    """Return the episodes that a checkpoint is scored on: those of the CSV, or drawn ones.

    Raises:
        RecipeError: the CSV does not fit, or the split has less than an episode takes.
    """
    if recipe.data.episodes is not None:
        try:
            return episodes_from_csv(root / recipe.data.episodes, split.images.names)
        except InputError as e:
            raise RecipeError(f"data.episodes: {e}") from e
    return split.sampler(recipe.test, split="test", seed=recipe.seed)


def embedded(checkpoint: Checkpoint[FewShotRecipe], images: Dataset) -> Float32:
    """Return the embeddings of images, float32 (N, D)."""
    normalization = checkpoint.recipe.normalization
    with torch.inference_mode():
        batches = PlainBatches(dataset=images, batch=EMBEDDED_AT_ONCE)
        rows = [checkpoint.model(normalised(i, normalization)) for i, _ in batches]
        vectors: Float32 = torch.cat(rows).numpy()
    return vectors


def _metrics(
    first: EpisodeScore, by_shots: dict[str, EpisodeScore], *, ways: int, images: int
) -> dict[str, Any]:
    shots = {
        "shots": {name: score.accuracy for name, score in by_shots.items()},
        "intervals": {f"{name} ±": score.interval for name, score in by_shots.items()},
    }
    return {
        "accuracy": first.accuracy,
        "interval": first.interval,
        **(shots if by_shots else {}),
        "episodes": first.episodes,
        "ways": ways,
        "images": images,
    }
