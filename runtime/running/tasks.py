"""What a task adds to the running model: how its graphs become an engine, and what an image's outputs mean."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.engines import Choice, Engine, load_engine
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import DecodeOptions, Frame, Source
from dlcv.runtime.results import Classification, Embedding, Result, Segmentation

Outputs: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


class TaskOptions:
    """Base of the options that one task has and others have not, such as a captioner's search."""


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What is to be loaded.

    choice: engine, precision and its options. outputs: names of the wanted ones; None means all. largest: (height,
    width) of the largest images that will come. options: of the task.
    """

    bundle: Bundle
    choice: Choice
    outputs: Collection[str] | None = None
    largest: tuple[int, int] | None = None
    options: TaskOptions | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One image's outputs, by name, without the batch axis; and what a result says beside them: see `Result`."""

    outputs: Outputs
    source: Source
    frame: Frame
    engine: str
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    note: str | None = None

    @property
    def base(self) -> dict[str, Any]:
        """What every result holds, as arguments."""
        return {
            "source": self.source,
            "frame": self.frame,
            "engine": self.engine,
            "decode": self.decode,
            "note": self.note,
        }


ResultFunction: TypeAlias = Callable[[Answered], Result]
"""From one image's outputs to its result."""


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """What a task adds.

    engine: loads one that takes images. result: of a bundle, makes results of outputs. is_one_graph: the graph that takes
    images gives the answers too, so that its speed is the task's.
    """

    engine: Callable[[LoadRequest], Engine]
    result: Callable[[Bundle], ResultFunction]
    is_one_graph: bool = True


def parts_of_task(task: str) -> TaskParts:
    """Return what was registered for a task. One with a room of its own registers itself there, in its module `task`."""
    if task not in _REGISTERED:
        import_module(f"dlcv.runtime.{task}.task")
    return _REGISTERED[task]


def register_task(task: str, parts: TaskParts) -> None:
    """Let bundles of a task run by these parts.

    Raises:
        ValueError: the task has parts already.
    """
    if task in _REGISTERED:
        raise ValueError(f"task {task!r} is registered already")
    _REGISTERED[task] = parts


def _engine_of_one_graph(request: LoadRequest) -> Engine:
    manifest = request.bundle.manifest
    if request.options is not None:
        raise InputError(
            f"bundle {manifest.name!r} ({manifest.task}) writes no captions; name a captioner, or leave out `search`"
        )
    choice = request.choice
    return load_engine(
        request.bundle,
        choice.engine,
        precision=choice.precision,
        outputs=request.outputs,
        options=choice.options,
        largest=request.largest,
    )


def _classifications(bundle: Bundle) -> ResultFunction:
    classes, threshold = bundle.manifest.classes, bundle.manifest.threshold

    def result(answered: Answered) -> Result:
        outputs = answered.outputs
        if "probabilities" not in outputs:  # the embedding alone was asked for
            return _embedding(answered)
        return Classification(
            classes=classes,
            probabilities=outputs["probabilities"],
            embedding=outputs.get("embedding"),
            explanation=outputs.get("explanation"),
            attention=outputs.get("attention"),
            threshold=threshold,
            **answered.base,
        )

    return result


def _segmentations(bundle: Bundle) -> ResultFunction:
    classes = bundle.manifest.classes

    def result(answered: Answered) -> Result:
        return Segmentation(
            classes=classes,
            graph_mask=answered.outputs["mask"],
            graph_confidence=answered.outputs.get("confidence"),
            **answered.base,
        )

    return result


def _embedding(answered: Answered) -> Result:
    return Embedding(vector=answered.outputs["embedding"], **answered.base)


_REGISTERED: dict[str, TaskParts] = {
    "classify": TaskParts(engine=_engine_of_one_graph, result=_classifications),
    "segment": TaskParts(engine=_engine_of_one_graph, result=_segmentations),
    "embed": TaskParts(engine=_engine_of_one_graph, result=lambda _: _embedding),
}
