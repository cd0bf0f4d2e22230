"""Top-1 accuracy and mean IoU from confusion matrices, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dlcv.runtime.images.label_masks import Mask, ignored_label

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import ScoreName

Counts: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def top1(matrix: Counts) -> float:
    """Return the accuracy from a confusion matrix (classes, classes), rows = labels."""
    return float(matrix.diagonal().sum() / max(1, matrix.sum()))


def mean_iou(matrix: Counts) -> float:
    """Return the mean of TP / (TP + FP + FN) over the classes that occur in labels or predictions.

    matrix: confusion matrix (classes, classes), rows = labels.
    """
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    occurs = union > 0
    return float((hits[occurs] / union[occurs]).mean()) if occurs.any() else 0.0


METRICS: dict[ScoreName, Callable[[Counts], float]] = {"top1": top1, "mean_iou": mean_iou}


def confusion(labels: Mask, predictions: Mask, *, classes: int) -> Counts:
    """Return the confusion matrix of two masks: int64 (classes, classes), rows = labels. Ignored ones are not counted."""
    kept = labels != ignored_label(classes)
    pairs = labels[kept].astype(np.int64) * classes + predictions[kept]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
