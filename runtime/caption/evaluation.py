"""Evaluates a bundle's captions against reference captions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dlcv.runtime.caption.captioned_images import CaptionedImage
from dlcv.runtime.caption.metrics import bleu, cider
from dlcv.runtime.caption.result import Caption
from dlcv.runtime.caption.vocabulary import words_of
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import Refused, source_of
from dlcv.runtime.running.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class CaptionEvaluation:
    """The scores of a data set: see `dlcv.runtime.caption.metrics`.

    captions: the predicted captions, in order. images: how many were scored. refused: images that could not be
    scored, each with the reason. seconds: from reading the first image to the last caption. ran: what ran, as
    `Predictor.description`.
    """

    bleu4: float
    cider: float
    captions: tuple[str, ...]
    images: int
    refused: tuple[str, ...]
    seconds: float
    ran: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the metrics for JSON, under the names that training uses."""
        return {
            "bleu4": self.bleu4,
            "cider": self.cider,
            "images": self.images,
            "refused": list(self.refused),
            "images_per_second": round(self.images / self.seconds, 2),
            "ran": self.ran,
        }


def evaluate_captions(
    predictor: Predictor,
    items: Sequence[CaptionedImage],
    *,
    on_progress: Callable[[], object] | None = None,
) -> CaptionEvaluation:
    """Caption images and score against the reference captions. Unreadable images are skipped and reported.

    Raises:
        InputError: no image could be captioned.
    """
    start = time.perf_counter()
    said, references, refused = [], [], []
    results = predictor.stream(source_of(item.name, item.read) for item in items)
    for item, result in zip(items, results, strict=True):
        if isinstance(result, Refused):
            refused.append(f"{item.name}: {result.reason}")
        elif isinstance(result, Caption):
            said.append(result.text)
            references.append([words_of(text) for text in item.captions])
        if on_progress:
            on_progress()
    if not said:
        raise InputError(
            f"no image could be captioned; {refused[0] if refused else 'there are none'}"
        )
    words = [words_of(text) for text in said]
    return CaptionEvaluation(
        bleu4=bleu(words, references),
        cider=cider(words, references),
        captions=tuple(said),
        images=len(said),
        refused=tuple(refused),
        seconds=time.perf_counter() - start,
        ran=predictor.description(),
    )
