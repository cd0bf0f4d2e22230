"""What a model answers: frozen, validated results. Coordinates are those of the original image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.bundle.manifest import ClassInfo
from dlcv.runtime.images import Frame, Source, UInt8, load_display

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcv.runtime.caption.vocabulary import Vocabulary

Float32: TypeAlias = "NDArray[np.float32]"
Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A class that an image may belong to, and how likely: probability in 0..1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What every answer holds.

    source: the image as it was given. frame: where the graph's pixels lie in the original image.
    engine: what ran (engine, version, device, precision).
    """

    source: Source
    frame: Frame
    engine: str

    @property
    def name(self) -> str:
        """The source as text: a path or URL, or the kind of object that was given."""
        return name_of(self.source)

    def _base_record(self) -> Record:
        height, width = self.frame.size
        return {"image": self.name, "height": height, "width": width}


@dataclass(frozen=True, kw_only=True)
class Classification(_Result):
    """One image's classes, embedding and maps.

    probabilities: float32 (classes,), sums to 1.
    embedding: float32 (D,), what the last linear layer sees; not normalised.
    explanation: float32 (h, w) in 0..1 over `frame.box`, or None where the network has none.
    attention: float32 (heads, h, w), last layer, class token to patches, softmaxed; None unless a ViT.
    """

    classes: tuple[ClassInfo, ...]
    probabilities: Float32
    embedding: Float32 | None = None
    explanation: Float32 | None = None
    attention: Float32 | None = None

    def __post_init__(self) -> None:
        _require(self.probabilities, "probabilities", np.float32, ndim=1)
        if len(self.probabilities) != len(self.classes):
            raise ValueError(
                f"{len(self.probabilities)} probabilities, {len(self.classes)} classes"
            )
        for field, ndim in (("embedding", 1), ("explanation", 2), ("attention", 3)):
            if (array := getattr(self, field)) is not None:
                _require(array, field, np.float32, ndim=ndim)

    @property
    def label(self) -> Label:
        """The likeliest class."""
        return self.top(1)[0]

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
        from dlcv.runtime.results.draw import draw_classification

        return draw_classification(load_display(self.source), self)

    def record(self, *, top: int = 5) -> Record:
        """Return what goes into a line of JSON."""
        labels = [
            {"label": x.name, "index": x.index, "probability": round(x.probability, 6)}
            for x in self.top(top)
        ]
        first = labels[0]
        return (
            self._base_record()
            | {
                "label": first["label"],
                "index": first["index"],
                "probability": first["probability"],
            }
            | {"top": labels, "engine": self.engine}
        )


@dataclass(frozen=True, kw_only=True)
class Segmentation(_Result):
    """One image's mask.

    graph_mask: uint8 (h, w), class indices at the graph's resolution, over `frame.box`.
    graph_confidence: float32 (h, w) in 0..1, the probability of the chosen class; None if not asked for.
    """

    classes: tuple[ClassInfo, ...]
    graph_mask: UInt8
    graph_confidence: Float32 | None = None

    def __post_init__(self) -> None:
        _require(self.graph_mask, "graph_mask", np.uint8, ndim=2)
        if self.graph_confidence is not None:
            _require(self.graph_confidence, "graph_confidence", np.float32, ndim=2)
        if self.graph_mask.size and (highest := int(self.graph_mask.max())) >= len(self.classes):
            raise ValueError(f"the mask holds class {highest}, there are {len(self.classes)}")

    @cached_property
    def mask(self) -> UInt8:
        """Class indices, uint8 (H, W), at the original image's size (nearest neighbour)."""
        height, width = self.frame.size
        if self.graph_mask.shape == (height, width):
            return self.graph_mask
        image = Image.fromarray(self.graph_mask)
        return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))

    @cached_property
    def confidence(self) -> Float32 | None:
        """Probability of the chosen class, float32 (H, W), at the original size (bilinear)."""
        if self.graph_confidence is None:
            return None
        height, width = self.frame.size
        image = Image.fromarray(self.graph_confidence)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    @cached_property
    def shares(self) -> dict[str, float]:
        """Each class's share of the image in 0..1, for the classes that occur, largest first."""
        counts = np.bincount(self.graph_mask.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        total = max(1, self.graph_mask.size)
        return {self.classes[i].name: float(counts[i]) / total for i in order if counts[i]}

    def mask_image(self) -> Image.Image:
        """Return the mask as a palette image: indices are classes, the palette their colours."""
        from dlcv.runtime.results.draw import palette_image

        return palette_image(self.mask, self.classes)

    def overlay(self) -> Image.Image:
        """Draw the mask over the photo with a legend of class names and shares.

        Raises:
            ImageError: the source cannot be read again.
        """
        from dlcv.runtime.results.draw import draw_segmentation

        return draw_segmentation(load_display(self.source), self)

    def record(self) -> Record:
        """Return what goes into a line of JSON, without the mask itself."""
        record = self._base_record()
        record["shares"] = {name: round(share, 6) for name, share in self.shares.items()}
        if self.graph_confidence is not None:
            record["mean_confidence"] = round(float(self.graph_confidence.mean()), 6)
        return record | {"engine": self.engine}


@dataclass(frozen=True, kw_only=True)
class Embedding(_Result):
    """One image's embedding: float32 (D,), not normalised."""

    vector: Float32

    def __post_init__(self) -> None:
        _require(self.vector, "vector", np.float32, ndim=1)

    def record(self) -> Record:
        """Return what goes into a line of JSON, the vector included."""
        return self._base_record() | {"embedding": self.vector.tolist(), "engine": self.engine}


@dataclass(frozen=True, kw_only=True)
class Caption(_Result):
    """One image's caption.

    text: the words as a sentence. words: one a token. log_probability: of all words and the end, natural logarithm.
    attention: float32 (words, h, w) over `frame.box`, each word's sums to 1; None if not asked for.
    """

    text: str
    words: tuple[str, ...]
    log_probability: float
    attention: Float32 | None = None

    def __post_init__(self) -> None:
        if self.attention is None:
            return
        _require(self.attention, "attention", np.float32, ndim=3)
        if len(self.attention) != len(self.words):
            raise ValueError(f"{len(self.attention)} maps of attention, {len(self.words)} words")

    def overlay(self) -> Image.Image:
        """Draw the strip: the photo, then for each word where the decoder looked.

        Raises:
            ValueError: attention was not asked for.
            ImageError: the source cannot be read again.
        """
        from dlcv.runtime.caption.attention_strip import draw_caption

        return draw_caption(load_display(self.source), self)

    def record(self) -> Record:
        """Return what goes into a line of JSON."""
        return self._base_record() | {
            "caption": self.text,
            "words": len(self.words),
            "log_probability": round(self.log_probability, 6),
            "engine": self.engine,
        }


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An image that could not be read, and why, in one sentence."""

    source: Source
    reason: str

    @property
    def name(self) -> str:
        """The source as text."""
        return name_of(self.source)

    def record(self) -> Record:
        """Return what goes into a line of `errors.jsonl`."""
        return {"image": self.name, "reason": self.reason}


Result: TypeAlias = Classification | Segmentation | Embedding | Caption


def result_from_outputs(
    outputs: Mapping[str, np.ndarray[Any, Any]],
    *,
    source: Source,
    frame: Frame,
    classes: tuple[ClassInfo, ...],
    engine: str,
    vocabulary: Vocabulary | None = None,
) -> Result:
    """Build the result that fits one image's outputs (arrays without the batch axis).

    vocabulary: of a captioner, what its tokens mean.
    """
    if vocabulary is not None:
        return _caption_from_outputs(
            outputs, vocabulary=vocabulary, source=source, frame=frame, engine=engine
        )
    if "mask" in outputs:
        return Segmentation(
            source=source,
            frame=frame,
            engine=engine,
            classes=classes,
            graph_mask=outputs["mask"],
            graph_confidence=outputs.get("confidence"),
        )
    if "probabilities" in outputs:
        return Classification(
            source=source, frame=frame, engine=engine, classes=classes, **dict(outputs)
        )
    return Embedding(source=source, frame=frame, engine=engine, vector=outputs["embedding"])


def _caption_from_outputs(
    outputs: Mapping[str, np.ndarray[Any, Any]], *, vocabulary: Vocabulary, **base: Any
) -> Caption:
    tokens = [int(token) for token in outputs["tokens"] if token != vocabulary.pad]
    attention = outputs.get("attention")
    return Caption(
        text=vocabulary.text(tokens),
        words=vocabulary.words(tokens),
        log_probability=float(outputs["log_probability"]),
        attention=None if attention is None else attention[: len(tokens)],
        **base,
    )


def name_of(source: Source) -> str:
    """Return a source as text: paths and URLs as they are, other objects by their kind."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {source.shape}>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"<image {source.size}>")
    return str(source)


def _require(array: np.ndarray[Any, Any], name: str, dtype: type, *, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim:
        raise ValueError(
            f"{name} must be {np.dtype(dtype)} with {ndim} axes, not {array.dtype} {array.shape}"
        )
