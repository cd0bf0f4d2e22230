"""The graph contract: what a bundle of each task has: graphs, their inputs and outputs, and what goes with them.

Names are fixed, so that any program can rely on them. `docs/bundle.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import (
        Activation,
        Graph,
        Preprocessing,
        ScoreName,
        Task,
        TensorSpec,
    )

Axis: TypeAlias = int | str | tuple[int, ...] | None


@dataclass(frozen=True)
class Tensor:
    """The required dtype and shape of a tensor.

    An axis is a fixed number or symbol, or one of several numbers; None allows any number or symbol. dtype: one, or
    several separated by " or ".
    """

    dtype: str
    axes: tuple[Axis, ...]
    required: bool = True

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(_words, self.axes))})"

    def fits(self, spec: TensorSpec) -> bool:
        """Return whether a tensor spec meets this requirement."""
        return (
            spec.dtype in self.dtype.split(" or ")
            and len(spec.shape) == len(self.axes)
            and all(
                axis in (None, size) or (isinstance(axis, tuple) and size in axis)
                for axis, size in zip(self.axes, spec.shape, strict=True)
            )
        )


def _words(axis: Axis) -> str:
    if isinstance(axis, tuple):
        return " or ".join(map(str, axis))
    return "any" if axis is None else str(axis)


@dataclass(frozen=True, kw_only=True)
class GraphContract:
    """The tensors of a graph by name. All inputs are required."""

    outputs: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor] = field(
        default_factory=lambda: {"image": Tensor("uint8", ("batch", None, None, (1, 3)))}
    )
    required: bool = True


Check: TypeAlias = "Callable[[Mapping[str, Graph], int], None]"
"""Checks that the tensors' sizes agree with each other and with the number of classes. Raises ValueError."""


@dataclass(frozen=True, kw_only=True)
class TaskContract:
    """What a bundle of a task has.

    graphs: by name; the first takes images. check: of their sizes. activations: of the logits of classes. has_tokenizer:
    whether a file turns its tokens into words. covers_image: whether its answers are for every place of an image, which
    must not be cropped then. score: the name of the score on labelled images, if there is one.
    """

    graphs: Mapping[str, GraphContract]
    check: Check
    activations: tuple[Activation, ...] = ("softmax",)
    has_tokenizer: bool = False
    covers_image: bool = False
    score: ScoreName | None = None


def _width(specs: Sequence[TensorSpec], name: str) -> int | str:
    return next(spec.shape[1] for spec in specs if spec.name == name)


def _check_classifier(graphs: Mapping[str, Graph], classes: int) -> None:
    columns = _width(graphs["model"].outputs, "probabilities")
    if columns != classes:
        raise ValueError(
            f"'classes' lists {classes} names but 'probabilities' has {columns} columns"
        )


def _check_segmenter(graphs: Mapping[str, Graph], classes: int) -> None:
    dtype = next(spec.dtype for spec in graphs["model"].outputs if spec.name == "mask")
    least, most = (2, 1 << 8) if dtype == "uint8" else ((1 << 8) + 1, 1 << 16)
    if not least <= classes <= most:
        raise ValueError(
            f"a mask of {dtype} needs {least} to {most} classes, 'classes' lists {classes}"
        )


def _check_embedder(graphs: Mapping[str, Graph], _: int) -> None:
    width = _width(graphs["model"].outputs, "embedding")
    for name in ("query", "prototypes") if "distance" in graphs else ():
        if (received := _width(graphs["distance"].inputs, name)) != width:
            raise ValueError(f"{name!r} has {received} columns but 'embedding' has {width}")


def _check_captioner(graphs: Mapping[str, Graph], _: int) -> None:
    taken = {spec.name: spec for spec in graphs["decoder"].inputs}
    given = {s.name: s for name in graphs for s in graphs[name].outputs}
    for name, end in (("memory", "memory"), ("next_cache", "cache")):
        if given[name].shape != taken[end].shape:
            raise ValueError(f"the decoder takes {taken[end]}, but there is {given[name]}")


_VECTORS = Tensor("float32", ("batch", None))
_KEYS_VALUES = Tensor(
    "float32", ("batch", None, 2, None, None, None)
)  # layers, 2, heads, places, width
TASKS: dict[Task, TaskContract] = {
    "classify": TaskContract(
        graphs={
            "model": GraphContract(
                outputs={
                    "probabilities": _VECTORS,
                    "embedding": Tensor("float32", ("batch", None), required=False),
                    "explanation": Tensor("float32", ("batch", None, None), required=False),
                    "attention": Tensor("float32", ("batch", None, None, None), required=False),
                }
            )
        },
        check=_check_classifier,
        activations=("softmax", "sigmoid"),
        score="top1",
    ),
    "segment": TaskContract(
        graphs={
            "model": GraphContract(
                outputs={
                    "mask": Tensor("uint8 or uint16", ("batch", None, None)),
                    "confidence": Tensor("float32", ("batch", None, None)),
                }
            )
        },
        check=_check_segmenter,
        activations=("softmax", "sigmoid"),
        covers_image=True,
        score="mean_iou",
    ),
    "embed": TaskContract(
        graphs={
            "model": GraphContract(outputs={"embedding": _VECTORS}),
            "distance": GraphContract(
                inputs={"query": _VECTORS, "prototypes": Tensor("float32", ("classes", None))},
                outputs={"scores": Tensor("float32", ("batch", "classes"))},
                required=False,
            ),
        },
        check=_check_embedder,
    ),
    "caption": TaskContract(
        graphs={
            "encoder": GraphContract(outputs={"memory": _KEYS_VALUES}),
            "decoder": GraphContract(
                inputs={
                    "token": Tensor("int32", ("batch",)),
                    "position": Tensor("int32", ("batch",)),
                    "cache": _KEYS_VALUES,
                    "memory": _KEYS_VALUES,
                },
                outputs={
                    "logits": _VECTORS,
                    "next_cache": _KEYS_VALUES,
                    "attention": Tensor("float32", ("batch", None, None)),
                },
            ),
        },
        check=_check_captioner,
        has_tokenizer=True,
    ),
}


def main_graph(task: Task) -> str:
    """Return the name of the task's graph that takes images."""
    return next(iter(TASKS[task].graphs))


def check_contract(
    graphs: Mapping[str, Graph], *, task: Task, classes: int, preprocessing: Preprocessing
) -> None:
    """Check a bundle's graphs against the contract of its task, and against the rest of the manifest.

    Raises:
        ValueError: a graph or tensor is missing, unknown, or of another dtype, rank, class count or channel count.
    """
    contract = TASKS[task]
    expected = contract.graphs
    for name, needed in expected.items():
        if needed.required and name not in graphs:
            raise ValueError(f"task {task!r} needs a graph named {name!r}")
    for name, graph in graphs.items():
        if name not in expected:
            raise ValueError(f"graph {name!r} is not in the contract of task {task!r}")
        _check_tensors(graph.inputs, expected[name].inputs, what="input", task=task)
        _check_tensors(graph.outputs, expected[name].outputs, what="output", task=task)
    taken = graphs[main_graph(task)].inputs[0].shape[-1]
    if taken != preprocessing.channels:
        raise ValueError(
            f"'image' has {taken} channels, 'preprocessing' makes {preprocessing.channels}"
        )
    if contract.covers_image and preprocessing.resize == "center_crop":
        raise ValueError(
            f"task {task!r} answers for the whole image, so it does not resize by 'center_crop'"
        )
    contract.check(graphs, classes)


def _check_tensors(
    specs: Sequence[TensorSpec], expected: Mapping[str, Tensor], *, what: str, task: Task
) -> None:
    by_name = {spec.name: spec for spec in specs}
    for name, spec in by_name.items():
        if name not in expected:
            raise ValueError(f"{what} {name!r} is not in the contract of task {task!r}")
        if not expected[name].fits(spec):
            raise ValueError(f"{what} {name!r} must be {expected[name]}, not {spec}")
    for name, tensor in expected.items():
        if tensor.required and name not in by_name:
            raise ValueError(f"task {task!r} needs the {what} {name!r}")
