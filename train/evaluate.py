"""Evaluates a checkpoint on the test set of its recipe (or the validation set, if it has no other), in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcv.train.checkpoint import Checkpoint
from dlcv.train.data import AnyDataset, StreamedDataset, open_dataset
from dlcv.train.data.batches import PlainBatches, prefetched, stream_workers
from dlcv.train.metrics import (
    confusion_matrix_for,
    metrics_from_confusion,
    predictions_from_outputs,
)
from dlcv.train.modules import normalised
from dlcv.train.recipe import Recipe

_TOP = 5


def evaluate(checkpoint: Checkpoint[Recipe], root: Path) -> dict[str, Any]:
    """Return the metrics of a checkpoint, and `images`, the number of images they were measured on.

    For classifiers of more than five classes also `top5`, the share of images with the right class among the
    five likeliest. `dlcv-infer evaluate` gives the same metrics for a bundle.

    root: the data root.

    Raises:
        RecipeError: the data is missing or does not fit.
    """
    recipe = checkpoint.recipe
    dataset = open_dataset(recipe, root, split="test")
    confusion = confusion_matrix_for(recipe)
    has_top = recipe.task == "classify" and len(recipe.classes) > _TOP
    in_top = 0
    for outputs, labels in answers(checkpoint, dataset):
        confusion.update(predictions_from_outputs(outputs), labels.long())
        if has_top:
            in_top += count_in_top(outputs, labels)
    metrics = metrics_from_confusion(confusion.compute(), recipe)
    top5 = {"top5": in_top / len(dataset)} if has_top else {}
    return {**metrics, **top5, "images": len(dataset)}


def answers(checkpoint: Checkpoint[Recipe], dataset: AnyDataset) -> Iterator[tuple[Any, Tensor]]:
    """Yield the network's output and the labels for each batch of a data set, in order."""
    recipe = checkpoint.recipe
    batches = PlainBatches(dataset=dataset, batch=recipe.batch)
    workers = stream_workers() if isinstance(dataset, StreamedDataset) else 0
    for images, labels in prefetched(batches, workers=workers) if workers else batches:
        with torch.inference_mode():
            yield checkpoint.model(normalised(images, recipe.normalization)), labels


def count_in_top(logits: Tensor, labels: Tensor) -> int:
    """Return how many labels (B,) are among the five likeliest classes of logits (B, classes)."""
    likeliest = logits.topk(_TOP, dim=1).indices
    return int((likeliest == labels.long().unsqueeze(1)).any(dim=1).sum())
