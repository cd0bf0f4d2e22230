"""Interprets the file's outputs and postprocesses them in numpy: the reference for the graph's added nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from dlcv.export.onnx_import.image_input import Entry
from dlcv.export.onnx_import.options import ImportOptions, Layout
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.errors import InputError

Array: TypeAlias = "np.ndarray[Any, Any]"
_SUM_TOLERANCE = 0.01  # tolerance for probabilities in half precision or int8


@dataclass(frozen=True, kw_only=True)
class Head:
    """How scores become the bundle's outputs.

    shape: of the scores of one image. layout: of per-pixel scores; None for vectors. channels: of the scores; a
    single channel stands for two classes. logits: a softmax (for one channel, a sigmoid) is to be added.
    embedding: shape of the embedding of one image, where the task has one.
    """

    task: str
    shape: tuple[int, ...]
    layout: Layout | None
    channels: int
    logits: bool
    embedding: tuple[int, ...] | None

    @property
    def classes(self) -> int:
        """The number of classes; none for embeddings."""
        return 0 if self.task == "embed" else max(self.channels, 2)

    def answers(self, scores: Array, embedding: Array | None, *, size: tuple[int, int]) -> Arrays:
        """Return the bundle's outputs for raw outputs on images of `size` (height, width).

        scores: (B, ...). embedding: (B, D) or (B, D, h, w), which is averaged over h and w.
        """
        if self.task == "embed":
            return {"embedding": _vectors(scores)}
        if self.layout is None:
            vectors = None if embedding is None else _vectors(embedding)
            flat = scores.reshape(len(scores), -1).astype(np.float64)
            found = {"probabilities": self.probabilities(flat).astype(np.float32)}
            return found if vectors is None else found | {"embedding": vectors}
        maps = self.maps(scores)
        probabilities = self.probabilities(_resized(maps, size))
        mask, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        return {"mask": mask.astype(np.uint8), "confidence": confidence.astype(np.float32)}

    def maps(self, scores: Array) -> Array:
        """Return per-pixel scores as float64 (B, C, h, w)."""
        moved = scores.transpose(0, 3, 1, 2) if self.layout == "nhwc" else scores
        return moved.astype(np.float64)

    def probabilities(self, scores: Array) -> Array:
        """Return probabilities along axis 1; two classes where there is one channel."""
        if self.channels == 1:
            positive = 1 / (1 + np.exp(-scores)) if self.logits else scores
            return np.concatenate([1 - positive, positive], axis=1)
        if not self.logits:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def head_of(
    shapes: Sequence[tuple[int, ...]],
    samples: Sequence[Array],
    *,
    entry: Entry,
    options: ImportOptions,
) -> Head:
    """Return the head that fits the outputs' shapes, the outputs for photos and the options.

    shapes: of scores and, for a classifier, embedding. samples: scores of several photos.

    Raises:
        InputError: the answers are not those of the task.
    """
    layout = _layout(shapes[0], entry) if options.task == "segment" else None
    if options.task == "segment" and layout is None:
        raise InputError(
            f"the output is {_words(shapes[0])} for each image; segmentation needs scores of classes "
            "for each place, (C, h, w) or (h, w, C); name another tensor by --output"
        )
    channels = int(np.prod(shapes[0]))
    if layout is not None:
        channels = shapes[0][0 if layout == "nchw" else 2]
    head = Head(
        task=options.task,
        shape=shapes[0],
        layout=layout,
        channels=channels,
        logits=False,
        embedding=shapes[1] if len(shapes) > 1 else None,
    )
    _require_fit(head)
    if options.task == "embed":
        return head
    return _with_logits(head, samples, choice=options.softmax)


def _require_fit(head: Head) -> None:
    shape, sides = head.shape, sorted(head.shape)
    if head.task == "classify" and (len(shape) not in (1, 2, 3) or any(n > 1 for n in sides[:-1])):
        raise InputError(
            f"the output is {_words(shape)} for each image; --task classify needs one score a class; "
            "name another tensor by --output, or another --task"
        )
    if head.task == "segment" and head.channels > 256:
        raise InputError(f"a mask has at most 256 classes, the output has {head.channels}")
    vector = head.shape if head.task == "embed" else head.embedding
    if vector is not None and len(vector) not in (1, 3):
        option = "--output" if head.task == "embed" else "--embedding"
        raise InputError(
            f"the embedding is {_words(vector)} for each image; (D) or (D, h, w) is needed; "
            f"name another tensor by {option}"
        )


def _with_logits(head: Head, samples: Sequence[Array], *, choice: str) -> Head:
    """Detect whether scores are probabilities already, or follow the user's option."""
    probable = all(_are_probabilities(head, scores) for scores in samples)
    if choice == "no" and not probable:
        raise InputError(
            "--softmax no, but the output's scores are not probabilities (0..1, with a sum of 1 over "
            "the classes); give --softmax yes or auto"
        )
    logits = choice == "yes" or (choice == "auto" and not probable)
    return replace(head, logits=logits)


def _are_probabilities(head: Head, scores: Array) -> bool:
    flat = head.maps(scores) if head.layout else scores.reshape(len(scores), -1).astype(np.float64)
    inside = flat.min() >= -_SUM_TOLERANCE and flat.max() <= 1 + _SUM_TOLERANCE
    return bool(inside and (head.channels == 1 or np.allclose(flat.sum(1), 1, atol=_SUM_TOLERANCE)))


def _layout(shape: tuple[int, ...], entry: Entry) -> Layout | None:
    """Return which axis holds the classes: the other two have the image's proportions."""
    if len(shape) != 3:
        return None
    fits: list[Layout] = []
    if _proportional(shape[1:], entry.size):
        fits.append("nchw")
    if _proportional(shape[:2], entry.size):
        fits.append("nhwc")
    if len(fits) == 2:
        return entry.layout
    return fits[0] if fits else None


def _proportional(sides: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return whether sides have the image's proportions, allowing for rounding up in down-sampling."""
    scale = max(sides) / max(size)
    return min(sides) > 1 and all(abs(a - b * scale) <= 1 for a, b in zip(sides, size, strict=True))


def _vectors(array: Array) -> Array:
    """Return float32 (B, D) from (B, D) or (B, D, h, w)."""
    means = array.mean(axis=(2, 3), dtype=np.float64) if array.ndim == 4 else array
    return means.astype(np.float32)


def _resized(maps: Array, size: tuple[int, int]) -> Array:
    """Resize bilinearly, with half-pixel centres: (B, C, h, w) to (B, C, *size)."""
    if maps.shape[2:] == size:
        return maps
    rows, columns = (_weights(maps.shape[2], size[0]), _weights(maps.shape[3], size[1]))
    return np.asarray(rows @ maps @ columns.T)


def _weights(before: int, after: int) -> Array:
    """Return the weights (after, before) of linear interpolation along one axis."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    return np.stack([np.interp(centres, np.arange(before), row) for row in np.eye(before)], axis=1)


def _words(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
