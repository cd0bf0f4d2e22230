"""Whether lower arithmetic may run in the place of a bundle's own: by records, by labelled images, or by agreement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import EngineOptions, engine_entry
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE
from dlcv.runtime.engines.first_use import BUDGET, is_proved, proof_of
from dlcv.runtime.engines.tuned import arithmetic_of
from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluate.evaluation import Score, score
from dlcv.runtime.evaluate.labelled import LabelledImage, labelled_images
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.images.sources import NamedImage, expand_inputs
from dlcv.runtime.results import Classification, Embedding, Result, Segmentation
from dlcv.runtime.running.predictor import Predictor, load, none_refused

SAME_CLASS, SAME_PIXELS, LEAST_COSINE = 0.99, 0.995, 0.999
_MOST_IMAGES = 300


@dataclass(frozen=True, kw_only=True)
class LowerOptions:
    """What decides where the bundle has no record.

    images: files, folders or patterns of photos on which the answers must agree; empty: those that ship. labelled: data as
    `evaluate` takes it; None: none. budget: how much lower the score may be, in 0..1.
    """

    images: tuple[str, ...] = ()
    labelled: Path | None = None
    budget: float = BUDGET


@final
class LowerGate:
    """Decides for one bundle. Full precision is run once, by `engine`."""

    def __init__(self, bundle: Bundle, options: LowerOptions, *, engine: str) -> None:
        self._bundle = bundle
        self._options = options
        self._engine = engine

    def verdict(
        self, engine: str, precision: Precision, settings: Mapping[str, str]
    ) -> tuple[bool, str]:
        """Return whether a precision of the graph with these engine settings may run, and why, in words.

        Raises:
            DlcvError: the engine cannot run it, or images cannot be read.
        """
        if self._options.labelled is not None:
            return self._by_labels(engine, precision, settings)
        arithmetic = arithmetic_of(precision, settings)
        if is_proved(self._bundle, precision, arithmetic):
            return True, f"recorded{proof_of(self._bundle, precision, arithmetic)}"
        return self._by_agreement(engine, precision, settings)

    def _by_labels(
        self, engine: str, precision: Precision, settings: Mapping[str, str]
    ) -> tuple[bool, str]:
        full = self._full_score
        with self._loaded(engine, precision, settings) as predictor:
            lower = score(predictor, self._labelled)
        words = (
            f"{lower.metric} {lower.value:.4f} against {full.value:.4f} on {full.images:,} images"
        )
        return lower.value >= full.value - self._options.budget - 1e-9, words

    def _by_agreement(
        self, engine: str, precision: Precision, settings: Mapping[str, str]
    ) -> tuple[bool, str]:
        with self._loaded(engine, precision, settings) as predictor:
            answers = none_refused(predictor.stream(self._images))
        return agreement(self._full_answers, answers)

    @cached_property
    def _full_answers(self) -> list[Result]:
        with self._loaded(self._engine, self._default, {}) as predictor:
            return none_refused(predictor.stream(self._images))

    @cached_property
    def _full_score(self) -> Score:
        with self._loaded(self._engine, self._default, {}) as predictor:
            return score(predictor, self._labelled)

    @cached_property
    def _labelled(self) -> Sequence[LabelledImage]:
        assert self._options.labelled is not None
        names = [info.name for info in self._bundle.manifest.classes]
        task = self._bundle.manifest.task
        return labelled_images(self._options.labelled, task=task, classes=names)

    @cached_property
    def _images(self) -> list[str]:
        if not self._options.images:
            return [str(path) for path in sample_paths()]
        found = [i.path for i in expand_inputs(self._options.images) if isinstance(i, NamedImage)]
        if not found:
            raise InputError(f"no image in {', '.join(self._options.images)}")
        return found[:_MOST_IMAGES]

    @property
    def _default(self) -> Precision:
        return self._bundle.graph().default_precision

    def _loaded(self, engine: str, precision: Precision, settings: Mapping[str, str]) -> Predictor:
        main = self._bundle.graph().outputs[0].name
        batch = DEFAULT_BATCH_SIZE if engine_entry(engine).needs_gpu else None  # not to be measured
        options = EngineOptions(batch_size=batch, settings=settings)
        return load(
            self._bundle, engine=engine, precision=precision, outputs=(main,), options=options
        )


def agreement(full: Sequence[Result], lower: Sequence[Result]) -> tuple[bool, str]:
    """Return whether two lists of answers to the same images agree, and how well, in words.

    Classes: the same labels on 99 % of the images. Masks: the same class on 99.5 % of the pixels. Embeddings: a
    cosine of .999 at least, on every image.
    """
    pairs = list(zip(full, lower, strict=True))
    match full[0]:
        case Classification():
            same = sum(_labels(a) == _labels(b) for a, b in pairs)
            return same >= SAME_CLASS * len(
                pairs
            ), f"the same class on {same} of {len(pairs)} photos"
        case Segmentation():
            share = float(np.mean(list(_equal_pixels(pairs))))
            return (
                share >= SAME_PIXELS,
                f"{share:.2%} of the pixels the same on {len(pairs)} photos",
            )
        case _:
            least = min(_cosine(a, b) for a, b in pairs)
            return least >= LEAST_COSINE, f"cosine {least:.5f} at least on {len(pairs)} photos"


def _labels(result: Result) -> object:
    return [label.index for label in result.labels] if isinstance(result, Classification) else None


def _equal_pixels(pairs: Iterable[tuple[Result, Result]]) -> Iterator[float]:
    for a, b in pairs:
        assert isinstance(a, Segmentation)
        assert isinstance(b, Segmentation)
        yield float((a.graph_mask == b.graph_mask).mean())


def _cosine(a: Result, b: Result) -> float:
    assert isinstance(a, Embedding)
    assert isinstance(b, Embedding)
    norms = np.linalg.norm(a.vector) * np.linalg.norm(b.vector)
    return float(a.vector @ b.vector / max(float(norms), 1e-12))
