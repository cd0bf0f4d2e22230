"""Metrics of a checkpoint over the whole validation set, counted by torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from dlcv.train.data.batches import IGNORE_LABEL
from dlcv.train.recipe import Recipe


def confusion_matrix_for(recipe: Recipe) -> MulticlassConfusionMatrix:
    """Return an empty confusion matrix: rows are labels, columns are predictions."""
    ignored = IGNORE_LABEL if recipe.task == "segment" else None
    return MulticlassConfusionMatrix(len(recipe.classes), ignore_index=ignored)


def metrics_from_confusion(matrix: Tensor, recipe: Recipe) -> dict[str, Any]:
    """Return the scores of a confusion matrix, int64 (classes, classes), rows = labels.

    `accuracy` is the share of images (pixels that are not ignored) with the right class. For
    segmentation, `iou` of a class is TP / (TP + FP + FN) and `mean_iou` its mean over the classes
    that occur in labels or predictions. For classification, `recall` is per class.
    """
    counts = matrix.cpu().double()
    hits = counts.diagonal()
    labelled, predicted = counts.sum(dim=1), counts.sum(dim=0)
    accuracy = float(hits.sum() / counts.sum().clamp(min=1))
    if recipe.task == "classify":
        return {"accuracy": accuracy, "recall": _by_class(hits / labelled, labelled > 0, recipe)}
    union = labelled + predicted - hits
    present = union > 0
    mean_iou = float((hits[present] / union[present]).mean()) if bool(present.any()) else 0.0
    return {
        "mean_iou": mean_iou,
        "accuracy": accuracy,
        "iou": _by_class(hits / union, present, recipe),
    }


def predictions_from_outputs(outputs: Any) -> Tensor:
    """Return class indices from logits (B, classes, ...), or from torchvision's `{"out": logits}`."""
    return torch.argmax(logits_of(outputs), dim=1)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits (B, classes, ...) that a network gives, alone or as torchvision's `{"out": logits}`."""
    logits: Tensor = outputs["out"] if isinstance(outputs, dict) else outputs
    return logits


def _by_class(values: Tensor, present: Tensor, recipe: Recipe) -> dict[str, float | None]:
    pairs = zip(recipe.class_names, values.tolist(), present.tolist(), strict=True)
    return {name: value if there else None for name, value, there in pairs}
