"""Registers captioning with the running model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcv.runtime.caption.beam_search import SearchOptions
from dlcv.runtime.caption.engine import load_caption_engine, vocabulary_of
from dlcv.runtime.caption.result import Caption
from dlcv.runtime.errors import InputError
from dlcv.runtime.running.tasks import (
    Answered,
    LoadRequest,
    ResultFunction,
    TaskParts,
    register_task,
)

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.caption.engine import CaptionEngine


def _engine(request: LoadRequest) -> CaptionEngine:
    search = request.options or SearchOptions()
    if not isinstance(search, SearchOptions):
        raise InputError(f"a captioner takes `SearchOptions`, not {type(search).__name__}")
    return load_caption_engine(
        request.bundle, request.choice, outputs=request.outputs, search=search
    )


def _result(bundle: Bundle) -> ResultFunction:
    vocabulary = vocabulary_of(bundle)

    def result(answered: Answered) -> Caption:
        outputs = answered.outputs
        tokens = [int(token) for token in outputs["tokens"] if token != vocabulary.pad]
        attention = outputs.get("attention")
        return Caption(
            **answered.base,
            text=vocabulary.text(tokens),
            words=vocabulary.words(tokens),
            log_probability=float(outputs["log_probability"]),
            attention=None if attention is None else attention[: len(tokens)],
        )

    return result


register_task("caption", TaskParts(engine=_engine, result=_result, is_one_graph=False))
