"""Scores a checkpoint and its bundle on the same images, by task, and counts how often they agree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, final

import numpy as np
import torch

from dlcv.export.systems.records import Scores, scores_from_metrics
from dlcv.runtime.caption.captioned_images import captioned_images
from dlcv.runtime.caption.evaluation import evaluate_captions
from dlcv.runtime.evaluate.evaluation import evaluate as evaluate_labels
from dlcv.runtime.evaluate.evaluation import recorded
from dlcv.runtime.evaluate.labelled import LabelledImage
from dlcv.runtime.fewshot.episode_accuracy import score_episodes
from dlcv.runtime.fewshot.evaluation import EpisodeOptions, evaluate_episodes
from dlcv.runtime.fewshot.prototypes import vector_of
from dlcv.train.byol.probe import probe_accuracy
from dlcv.train.byol.recipe import ByolRecipe
from dlcv.train.byol.task import probe_images
from dlcv.train.caption.data import load_captions
from dlcv.train.caption.evaluate import captions_of, vocabulary_of
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.data import listed, load_dataset
from dlcv.train.fewshot.data import ClassSplit, load_split
from dlcv.train.fewshot.distance import distance_on_arrays
from dlcv.train.fewshot.evaluate import embedded, episodes_of_test
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.recipe import AnyRecipe, Recipe
from dlcv.train.tasks import task_kind

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.evaluate.evaluation import Evaluation
    from dlcv.runtime.fewshot.support import SupportImages
    from dlcv.runtime.running.predictor import Predictor
    from dlcv.train.checkpoint import Checkpoint
    from dlcv.train.data.batches import Dataset


class Scoring(ABC, Generic[AnyRecipe]):
    """The evaluation of a run. outputs: the graph outputs that it needs; None means all.

    Construct it before the work, so that missing data are reported first.

    Raises:
        RecipeError: the data are missing or do not fit.
    """

    outputs: tuple[str, ...] | None = None

    def __init__(self, checkpoint: Checkpoint[AnyRecipe], root: Path) -> None:
        self.checkpoint = checkpoint
        self.recipe = checkpoint.recipe
        self.root = root

    def of_checkpoint(self) -> Scores:
        """Return the scores in PyTorch."""
        evaluate = task_kind(self.recipe.task).evaluate
        return scores_from_metrics(evaluate(self.checkpoint, self.root))

    @abstractmethod
    def of_bundle(self, predictor: Predictor) -> tuple[Scores, float | None]:
        """Return a bundle's scores, and the share of its answers that equal the checkpoint's, if that is counted."""

    def kept(self, bundle: Bundle) -> Bundle:
        """Return the bundle with the last score in its manifest, where the manifest can hold it."""
        return bundle


@final
class LabelScoring(Scoring[Recipe]):
    """Scores classification and segmentation."""

    def __init__(self, checkpoint: Checkpoint[Recipe], root: Path) -> None:
        super().__init__(checkpoint, root)
        self._items = listed(self.recipe, root, split="test")
        self._found: Evaluation | None = None
        self.outputs = ("mask",) if self.recipe.task == "segment" else ("probabilities",)

    def of_bundle(self, predictor: Predictor) -> tuple[Scores, float | None]:
        self._found = evaluate_labels(predictor, self._items)
        return scores_from_metrics(self._found.record()), None

    def kept(self, bundle: Bundle) -> Bundle:
        found = self._found
        return bundle if found is None else recorded(bundle, found, data=self.recipe.data.root)


@final
class EpisodeScoring(Scoring[FewShotRecipe]):
    """Scores few-shot episodes of unseen classes, the same ones for checkpoint and bundle."""

    outputs = ("embedding",)

    def __init__(self, checkpoint: Checkpoint[FewShotRecipe], root: Path) -> None:
        super().__init__(checkpoint, root)
        self._split = load_split(self.recipe, root, split="test")

    def of_bundle(self, predictor: Predictor) -> tuple[Scores, float | None]:
        test, more = self.recipe.test, self.recipe.test_shots
        fixed = self.recipe.data.episodes
        drawing = EpisodeOptions(
            ways=test.ways,
            shots=tuple(dict.fromkeys((test.shots, *more))),
            queries=test.queries,
            episodes=test.episodes,
            seed=self.recipe.seed,
            file=self.root / fixed if fixed else None,
        )
        found = evaluate_episodes(predictor, _examples(self._split), drawing)
        first = next(iter(found.scores.values()))
        same = np.concatenate(first.answers) == self._answers
        return scores_from_metrics(found.record()), float(same.mean())

    @cached_property
    def _answers(self) -> np.ndarray[Any, Any]:
        """Return PyTorch's answers to the queries of all test episodes, int64 (queries,)."""
        expected = score_episodes(
            embedded(self.checkpoint, self._split.images),
            episodes_of_test(self.recipe, self._split, self.root),
            distance=distance_on_arrays(self.checkpoint.model.distance),
        )
        return np.concatenate(expected.answers)


@final
class ProbeScoring(Scoring[ByolRecipe]):
    """Scores a linear probe on embeddings, fitted separately for each engine."""

    outputs = ("embedding",)

    def __init__(self, checkpoint: Checkpoint[ByolRecipe], root: Path) -> None:
        super().__init__(checkpoint, root)
        known = load_dataset(self.recipe, root, split="train")
        self._known = probe_images(known, self.recipe)
        self._asked = load_dataset(self.recipe, root, split="test")

    def of_bundle(self, predictor: Predictor) -> tuple[Scores, float | None]:
        accuracy = probe_accuracy(
            _embedded(predictor, self._known),
            _embedded(predictor, self._asked),
            classes=len(self.recipe.classes),
            weight_decay=self.recipe.probe.weight_decay,
        )
        return Scores(images=len(self._asked), probe_accuracy=accuracy), None


@final
class CaptionScoring(Scoring[CaptionRecipe]):
    """Scores greedy captions of the test images."""

    def __init__(self, checkpoint: Checkpoint[CaptionRecipe], root: Path) -> None:
        super().__init__(checkpoint, root)
        self._images = load_captions(self.recipe, root, train=False).images
        self._items = captioned_images(root / self.recipe.data.root / self.recipe.data.test)

    def of_bundle(self, predictor: Predictor) -> tuple[Scores, float | None]:
        found = evaluate_captions(predictor, self._items)
        agreement = np.mean([a == b for a, b in zip(found.captions, self._said, strict=True)])
        return scores_from_metrics(found.record()), float(agreement)

    @cached_property
    def _said(self) -> list[str]:
        """Return PyTorch's captions of the test images."""
        return captions_of(self.checkpoint, self._images, vocabulary_of(self.checkpoint))


_SCORINGS: dict[str, type[Scoring[Any]]] = {
    "classify": LabelScoring,
    "segment": LabelScoring,
    "byol": ProbeScoring,
    "fewshot": EpisodeScoring,
    "caption": CaptionScoring,
}


def scoring_of(checkpoint: Checkpoint[Any], root: Path) -> Scoring[Any]:
    """Return the evaluation for a checkpoint's task. root: the data root.

    Raises:
        RecipeError: the data are missing or do not fit.
    """
    return _SCORINGS[checkpoint.recipe.task](checkpoint, root)


def _examples(split: ClassSplit) -> SupportImages:
    """Return the decoded images of each class, including rotated classes, which are in no file."""
    images = split.images
    pixels = images.images.numpy()
    return {
        name: [
            LabelledImage(name=images.names[number], read=partial(np.asarray, pixels[number]))
            for number in np.flatnonzero(images.labels.numpy() == label)
        ]
        for label, name in enumerate(split.classes)
    }


def _embedded(predictor: Predictor, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings, float (N, D), and labels."""
    vectors = [vector_of(result) for result in predictor(list(dataset.images.numpy()))]
    return torch.from_numpy(np.stack(vectors)), dataset.labels.long()
