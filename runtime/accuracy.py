"""How right a bundle's answers are on labelled images: top-1 or mean IoU, counted in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dlcv.runtime.errors import InputError
from dlcv.runtime.labelled import LabelledImage, mask_from_bytes
from dlcv.runtime.masks import IGNORED
from dlcv.runtime.results import Classification, Refused, Result, Segmentation

if TYPE_CHECKING:
    from dlcv.runtime.predictor import Predictor

Counts: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measured quality in 0..1, and on how many images."""

    metric: Literal["top1", "mean_iou"]
    value: float
    images: int


def score(predictor: Predictor, items: Sequence[LabelledImage]) -> Score:
    """Run a classifier or segmenter on labelled images and score its answers.

    Masks are compared at the original image's size.

    Raises:
        InputError: there are no images, one cannot be read, or a mask has another size than its image.
    """
    if not items:
        raise InputError("there are no labelled images to score on")
    classes = len(predictor.bundle.manifest.classes)
    matrix: Counts = np.zeros((classes, classes), np.int64)
    results = predictor.stream(item.read() for item in items)
    for item, result in zip(items, results, strict=True):
        if isinstance(result, Refused):
            raise InputError(f"{item.name}: {result.reason}")
        _count(matrix, item, result)
    if items[0].read_mask is None:
        return Score(metric="top1", value=top1(matrix), images=len(items))
    return Score(metric="mean_iou", value=mean_iou(matrix), images=len(items))


def top1(matrix: Counts) -> float:
    """Return the share of right answers from a confusion matrix (classes, classes), rows = labels."""
    return float(matrix.diagonal().sum() / max(1, matrix.sum()))


def mean_iou(matrix: Counts) -> float:
    """Return the mean of TP / (TP + FP + FN) over the classes that occur in labels or predictions.

    matrix: confusion matrix (classes, classes), rows = labels.
    """
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    occurs = union > 0
    return float((hits[occurs] / union[occurs]).mean()) if occurs.any() else 0.0


def confusion(labels: Any, predictions: Any, *, classes: int) -> Counts:
    """Count pairs: int64 (classes, classes), rows = labels; labels of 255 are left out."""
    kept = labels != IGNORED
    pairs = labels[kept].astype(np.int64) * classes + predictions[kept]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _count(matrix: Counts, item: LabelledImage, result: Result) -> None:
    """Add one image's answers to a confusion matrix."""
    if isinstance(result, Segmentation) and item.read_mask is not None:
        labels = mask_from_bytes(item.read_mask(), name=item.name, classes=len(matrix))
        if labels.shape != result.mask.shape:
            raise InputError(
                f"the mask of {item.name} is {labels.shape}, its image {result.mask.shape}; "
                "they must have the same size"
            )
        matrix += confusion(labels, result.mask, classes=len(matrix))
    elif isinstance(result, Classification) and item.label is not None:
        matrix[item.label, result.label.index] += 1
    else:
        raise InputError(f"the label of {item.name} does not fit what the bundle answers")
