"""What each task adds to an export, in one visible dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dlcv.export.caption import DecoderGraph
from dlcv.export.distance import DistanceGraph
from dlcv.export.wrappers import Normalize, wrap_classifier
from dlcv.export.wrappers.captioner import CaptionEncoderWrapper
from dlcv.export.wrappers.embedder import EmbedderWrapper
from dlcv.export.wrappers.segmenter import (
    BinarySegmenterWrapper,
    SegmenterWrapper,
    mask_dtype,
    segmentation_logits,
)

if TYPE_CHECKING:
    from dlcv.export.gate import Run
    from dlcv.export.sources import ExportSource
    from dlcv.export.wrappers import Wrapper
    from dlcv.export.writing import ExportedGraph
    from dlcv.runtime.bundle.schema import Task


class FurtherGraph(Protocol):
    """A graph of a bundle besides the one that takes images, such as a captioner's `decoder`."""

    @property
    def name(self) -> str: ...

    def graph(self, image_runs: Sequence[Run], /) -> ExportedGraph:
        """Export it. image_runs: the reference's outputs for photos."""
        ...

    def runs(self, image_runs: Sequence[Run]) -> list[Run]:
        """Return test cases, made from the reference's outputs for photos."""
        ...

    def golden(self, image_runs: Sequence[Run]) -> list[Run]:
        """Return the test cases to record, made from the recorded ones of photos."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """What a task adds to an export.

    wrapper: of a source, the module to export. network: what the source's unchanged network gives for normalised
    pixels, float32 (B, C, H, W). columns: how many columns or channels that has to have; None: any number. answers: the
    graph's main outputs from it, by name, computed without the wrapper. further: graphs besides the one that takes
    images. takes_any_size: whether height and width are dynamic.
    """

    wrapper: Callable[[ExportSource], Wrapper]
    network: Callable[[ExportSource, Tensor], Tensor]
    columns: Callable[[ExportSource], int | None]
    answers: Callable[[ExportSource, Tensor], Mapping[str, Tensor]]
    further: Callable[[ExportSource], Sequence[FurtherGraph]] = lambda _: ()
    takes_any_size: bool = False


def normalize_of(source: ExportSource) -> Normalize:
    """Return the normalisation of a source, for its graph."""
    return Normalize(source.mean, source.std, is_bgr=source.is_bgr)


def _classifier(source: ExportSource) -> Wrapper:
    return wrap_classifier(
        source.model,
        normalize=normalize_of(source),
        size=source.preprocessing.size,
        activation=source.activation,
    )


def _segmenter(source: ExportSource) -> Wrapper:
    normalize = normalize_of(source)
    if source.threshold is not None:
        return BinarySegmenterWrapper(source.model, normalize, threshold=source.threshold)
    return SegmenterWrapper(source.model, normalize, classes=len(source.classes))


def _captioner(source: ExportSource) -> Wrapper:
    captioner: Any = source.model
    return CaptionEncoderWrapper(captioner, normalize_of(source))


def _decoder(source: ExportSource) -> Sequence[FurtherGraph]:
    captioner: Any = source.model
    return [DecoderGraph(captioner.decoder)]


def _output(source: ExportSource, pixels: Tensor) -> Tensor:
    output: Tensor = source.model(pixels)
    return output


def _probabilities(source: ExportSource, logits: Tensor) -> Mapping[str, Tensor]:
    is_independent = source.activation == "sigmoid"
    return {"probabilities": logits.sigmoid() if is_independent else logits.softmax(dim=1)}


def _mask(source: ExportSource, logits: Tensor) -> Mapping[str, Tensor]:
    if source.threshold is None:
        confidence, mask = logits.softmax(dim=1).max(dim=1)
        return {"mask": mask.to(mask_dtype(len(source.classes))), "confidence": confidence}
    second = logits.squeeze(1).sigmoid()
    is_second = second >= source.threshold
    return {
        "mask": is_second.to(torch.uint8),
        "confidence": torch.where(is_second, second, 1 - second),
    }


def _memory(source: ExportSource, pixels: Tensor) -> Tensor:
    captioner: Any = source.model
    memory: Tensor = captioner.decoder.memory(captioner.encoder(pixels))
    return memory


def _class_count(source: ExportSource) -> int:
    return len(source.classes)


TASKS: dict[Task, ExportTask] = {
    "classify": ExportTask(
        wrapper=_classifier,
        network=_output,
        columns=_class_count,
        answers=_probabilities,
    ),
    "segment": ExportTask(
        wrapper=_segmenter,
        network=lambda source, pixels: segmentation_logits(source.model, pixels),
        columns=lambda source: _class_count(source) if source.activation == "softmax" else 1,
        answers=_mask,
        takes_any_size=True,
    ),
    "embed": ExportTask(
        wrapper=lambda source: EmbedderWrapper(source.model, normalize_of(source)),
        network=_output,
        columns=lambda _: None,
        answers=lambda _, vectors: {"embedding": vectors},
        further=lambda source: [DistanceGraph(source.distance)] if source.distance else [],
    ),
    "caption": ExportTask(
        wrapper=_captioner,
        network=_memory,
        columns=lambda _: None,
        answers=lambda _, memory: {"memory": memory},
        further=_decoder,
    ),
}
