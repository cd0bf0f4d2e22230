"""The answer of a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.results.base import (
    Float32,
    Label,
    Record,
    Result,
    ResultFile,
    WriteOptions,
    require_array,
)
from dlcv.runtime.results.draw import draw_classes, draw_maps, png_file


@dataclass(frozen=True, kw_only=True)
class Classification(Result):
    """One image's classes, embedding and maps.

    probabilities: float32 (classes,), sums to 1; where a `threshold` is given, independent of each other.
    threshold: of a network with several labels, the probability from which one is given; None of classes that exclude
        each other.
    embedding: float32 (D,), what the last linear layer sees; not normalised.
    explanation: float32 (h, w) in 0..1 over `frame.box`, or None where the network has none.
    attention: float32 (heads, h, w), last layer, class token to patches, softmaxed; None unless a ViT.
    """

    classes: tuple[ClassInfo, ...]
    probabilities: Float32
    embedding: Float32 | None = None
    explanation: Float32 | None = None
    attention: Float32 | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        require_array(self.probabilities, "probabilities", np.float32, ndim=1)
        if len(self.probabilities) != len(self.classes):
            raise ValueError(
                f"{len(self.probabilities)} probabilities, {len(self.classes)} classes"
            )
        for field, ndim in (("embedding", 1), ("explanation", 2), ("attention", 3)):
            if (array := getattr(self, field)) is not None:
                require_array(array, field, np.float32, ndim=ndim)

    @property
    def label(self) -> Label:
        """The likeliest class."""
        return self.top(1)[0]

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels given: the likeliest class, or all from the threshold on, likeliest first, perhaps none."""
        if self.threshold is None:
            return self.top(1)
        ranked = self.top(len(self.classes))
        return tuple(label for label in ranked if label.probability >= self.threshold)

    def top(self, count: int = 5) -> tuple[Label, ...]:
        """Return the `count` likeliest classes, likeliest first; equals keep the classes' order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return tuple(
            Label(index=int(i), name=self.classes[i].name, probability=float(self.probabilities[i]))
            for i in order
        )

    def overlay(self) -> Image.Image:
        """Draw the explanation over the photo, with the likeliest classes; without one, these beside the photo.

        Raises:
            ImageError: the source cannot be read again.
        """
        photo = self.photo()
        shown = self.top(max(5, len(self.labels)))
        ranked = [(label.name, label.probability) for label in shown]
        if self.explanation is None:
            return draw_classes(photo, ranked, given=len(self.labels))
        return draw_maps(
            photo,
            ranked,
            explanation=self.explanation,
            attention=self.attention,
            frame=self.frame,
        )

    def record(self, *, top: int = 5) -> Record:
        """Return what goes into a line of JSON."""
        ranked = [_fields(label) for label in self.top(top)]
        record = {**self._base_record(), **ranked[0]}
        if self.threshold is not None:
            record["labels"] = [_fields(label) for label in self.labels]
        return {**record, "top": ranked, "engine": self.engine}

    def line(self, options: WriteOptions) -> Record:
        """Return the record with as many classes as asked for."""
        return self.record(top=options.top)

    def files(self, options: WriteOptions) -> Iterator[ResultFile]:
        """Yield the maps as NPZ and the overlay."""
        if options.maps:
            yield ResultFile(key="maps", folder="maps", suffix=".npz", write=self._save_maps)
        if options.overlays:
            yield png_file("overlay", "overlays", self.overlay, self.engine)

    def csv_row(self, record: Record) -> Record:
        """Write the likeliest classes, and the labels given, as `name:probability` pairs."""
        return record | {key: _pairs(record[key]) for key in ("labels", "top") if key in record}

    def _save_maps(self, file: BinaryIO) -> None:
        arrays: dict[str, Any] = {
            "box_xyxy": np.array(self.frame.box, np.float32),
            "size_hw": np.array(self.frame.size),
            "engine": np.array(self.engine),
        }
        for name in ("explanation", "attention"):
            if (array := getattr(self, name)) is not None:
                arrays[name] = array
        np.savez(file, allow_pickle=False, **arrays)


def _fields(label: Label) -> Record:
    return {
        "label": label.name,
        "index": label.index,
        "probability": round(label.probability, 6),
    }


def _pairs(labels: list[Record]) -> str:
    return "; ".join(f"{x['label']}:{x['probability']:.4f}" for x in labels)
