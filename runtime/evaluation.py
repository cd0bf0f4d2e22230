"""What a bundle on an engine scores on labelled images, in all the figures that reports give."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dlcv.runtime.accuracy import Counts, confusion, mean_iou, top1
from dlcv.runtime.errors import InputError
from dlcv.runtime.labelled import LabelledImage, mask_from_bytes
from dlcv.runtime.results import Classification, Refused, Result, Segmentation

if TYPE_CHECKING:
    from dlcv.runtime.predictor import Predictor

_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measured quality in 0..1, and on how many images."""

    metric: Literal["top1", "mean_iou"]
    value: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Answers counted over a whole set.

    matrix: int64 (classes, classes), rows = labels, of images (classify) or of pixels that are not ignored (segment).
    top5: share of images with the right class among the likeliest five; None for masks or up to five classes.
    images: how many were scored. refused: those that could not be, each with the reason.
    seconds: from the first image's bytes to the last answer counted, loading of the engine left out.
    ran: what ran, as `Predictor.description`.
    """

    class_names: tuple[str, ...]
    matrix: Counts
    top5: float | None
    images: int
    refused: tuple[str, ...]
    seconds: float
    ran: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the figures under the names that training uses, for JSON; None: the class does not occur."""
        return {
            **self._metrics(),
            "images": self.images,
            "refused": list(self.refused),
            "images_per_second": round(self.images / self.seconds, 2),
            "confusion": self.matrix.tolist(),
            "ran": self.ran,
        }

    def _metrics(self) -> dict[str, Any]:
        hits = self.matrix.diagonal()
        labelled, predicted = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        if self.ran["task"] == "segment":
            iou = self._by_class(hits, labelled + predicted - hits)
            return {"mean_iou": mean_iou(self.matrix), "accuracy": top1(self.matrix), "iou": iou}
        top5 = {} if self.top5 is None else {"top5": self.top5}
        recall = self._by_class(hits, labelled)
        return {"accuracy": top1(self.matrix), **top5, "recall": recall}

    def _by_class(self, part: Counts, whole: Counts) -> dict[str, float | None]:
        rows = zip(self.class_names, part.tolist(), whole.tolist(), strict=True)
        return {name: hits / total if total else None for name, hits, total in rows}


def evaluate(
    predictor: Predictor,
    items: Sequence[LabelledImage],
    *,
    on_progress: Callable[[], object] | None = None,
) -> Evaluation:
    """Run a bundle on labelled images and count its answers; an image that cannot be read is left out and named.

    Masks are compared at the original image's size.

    Raises:
        InputError: no image could be scored, or a mask or label does not fit.
    """
    names = tuple(info.name for info in predictor.bundle.manifest.classes)
    matrix: Counts = np.zeros((len(names), len(names)), np.int64)
    in_top, refused = 0, []
    start = time.perf_counter()
    results = predictor.stream(_source(item) for item in items)
    for item, result in zip(items, results, strict=True):
        if isinstance(result, Refused):
            refused.append(f"{item.name}: {result.reason}")
        else:
            labels, predictions = _pair(item, result, classes=len(names))
            matrix += confusion(labels, predictions, classes=len(names))
            in_top += _is_in_top(item, result)
        if on_progress:
            on_progress()
    images = len(items) - len(refused)
    if not images:
        raise InputError(f"no image could be scored; {refused[0] if refused else 'there are none'}")
    has_top = predictor.bundle.manifest.task == "classify" and len(names) > _TOP
    return Evaluation(
        class_names=names,
        matrix=matrix,
        top5=in_top / images if has_top else None,
        images=images,
        refused=tuple(refused),
        seconds=time.perf_counter() - start,
        ran=predictor.description(),
    )


def score(predictor: Predictor, items: Sequence[LabelledImage]) -> Score:
    """Run a classifier or segmenter on labelled images and score its answers.

    Masks are compared at the original image's size.

    Raises:
        InputError: there are no images, one cannot be read, or a mask has another size than its image.
    """
    if not items:
        raise InputError("there are no labelled images to score on")
    found = evaluate(predictor, items)
    if found.refused:
        raise InputError(found.refused[0])
    if predictor.bundle.manifest.task == "segment":
        return Score(metric="mean_iou", value=mean_iou(found.matrix), images=found.images)
    return Score(metric="top1", value=top1(found.matrix), images=found.images)


def _source(item: LabelledImage) -> Any:
    """Read an image; what an archive or a contact sheet cannot give is refused, not an end of the run."""
    try:
        return item.read()
    except (InputError, OSError) as e:
        return Refused(source=item.name, reason=str(e))


def _pair(item: LabelledImage, result: Result, *, classes: int) -> tuple[Any, Any]:
    """Return labels and predictions of one image: arrays of one shape."""
    if isinstance(result, Classification) and item.label is not None:
        return np.array([item.label]), np.array([result.label.index])
    if not isinstance(result, Segmentation) or item.read_mask is None:
        raise InputError(f"the label of {item.name} does not fit what the bundle answers")
    labels = mask_from_bytes(item.read_mask(), name=item.mask or item.name, classes=classes)
    if labels.shape != result.mask.shape:
        raise InputError(
            f"the mask of {item.name} is {labels.shape}, its image {result.mask.shape}; "
            "they must have the same size"
        )
    return labels, result.mask


def _is_in_top(item: LabelledImage, result: Result) -> bool:
    return isinstance(result, Classification) and item.label in {x.index for x in result.top(_TOP)}
