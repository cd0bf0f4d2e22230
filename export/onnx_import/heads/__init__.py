"""How a file's scores become a bundle's outputs: a head for each task, in one visible dict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from dlcv.export.onnx_import.heads.base import Findings, Head
from dlcv.export.onnx_import.heads.classifier import classifier_head, classifier_taps
from dlcv.export.onnx_import.heads.embedder import embedder_head
from dlcv.export.onnx_import.heads.segmenter import segmenter_head
from dlcv.export.onnx_import.image_input import Entry
from dlcv.export.onnx_import.intermediates import Tap, output_tap
from dlcv.export.onnx_import.options import ImportOptions, ImportTask

__all__ = ["HEADS", "Findings", "Head", "HeadKind"]


def _only_output(model: onnx.ModelProto, _: Entry, options: ImportOptions) -> tuple[Tap, ...]:
    return (output_tap(model, options.output),)


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """What a task adds to an import.

    head: makes the head that fits what a file gives; raises InputError where none does. taps: the tensors of a file's
    graph that the head takes, in order; scores come first.
    """

    head: Callable[[Findings], Head]
    taps: Callable[[onnx.ModelProto, Entry, ImportOptions], tuple[Tap, ...]] = _only_output


HEADS: dict[ImportTask, HeadKind] = {
    "classify": HeadKind(head=classifier_head, taps=classifier_taps),
    "segment": HeadKind(head=segmenter_head),
    "embed": HeadKind(head=embedder_head),
}
