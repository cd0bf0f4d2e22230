"""The graph contract: the graphs that a bundle of each task has, with their inputs and outputs.

Names are fixed, so that any program can rely on them. `docs/bundle.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import Graph, Task, TensorSpec

Axis: TypeAlias = int | str | None


@dataclass(frozen=True)
class Tensor:
    """The required dtype and shape of a tensor.

    An axis is a fixed number or symbol; None allows any number or symbol.
    """

    dtype: str
    axes: tuple[Axis, ...]
    required: bool = True

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('any' if a is None else str(a) for a in self.axes)})"

    def fits(self, spec: TensorSpec) -> bool:
        """Return whether a tensor spec meets this requirement."""
        return (spec.dtype, len(spec.shape)) == (self.dtype, len(self.axes)) and all(
            axis in (None, size) for axis, size in zip(self.axes, spec.shape, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class GraphContract:
    """The tensors of a graph by name. All inputs are required."""

    outputs: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor] = field(
        default_factory=lambda: {"image": Tensor("uint8", ("batch", None, None, 3))}
    )
    required: bool = True


_VECTORS = Tensor("float32", ("batch", None))
_KEYS_VALUES = Tensor(
    "float32", ("batch", None, 2, None, None, None)
)  # layers, 2, heads, places, width
CONTRACT: dict[Task, dict[str, GraphContract]] = {  # the first graph of a task takes images
    "classify": {
        "model": GraphContract(
            outputs={
                "probabilities": _VECTORS,
                "embedding": _VECTORS,
                "explanation": Tensor("float32", ("batch", None, None), required=False),
                "attention": Tensor("float32", ("batch", None, None, None), required=False),
            }
        )
    },
    "segment": {
        "model": GraphContract(
            outputs={
                "mask": Tensor("uint8", ("batch", None, None)),
                "confidence": Tensor("float32", ("batch", None, None)),
            }
        )
    },
    "embed": {
        "model": GraphContract(outputs={"embedding": _VECTORS}),
        "distance": GraphContract(
            inputs={"query": _VECTORS, "prototypes": Tensor("float32", ("classes", None))},
            outputs={"scores": Tensor("float32", ("batch", "classes"))},
            required=False,
        ),
    },
    "caption": {
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
}


def main_graph(task: Task) -> str:
    """Return the name of the task's graph that takes images."""
    return next(iter(CONTRACT[task]))


def check_contract(graphs: Mapping[str, Graph], *, task: Task, classes: int) -> None:
    """Check a bundle's graphs against the contract of its task.

    Raises:
        ValueError: a graph or tensor is missing, unknown, or of another dtype, rank or class count.
    """
    expected = CONTRACT[task]
    for name, contract in expected.items():
        if contract.required and name not in graphs:
            raise ValueError(f"task {task!r} needs a graph named {name!r}")
    for name, graph in graphs.items():
        if name not in expected:
            raise ValueError(f"graph {name!r} is not in the contract of task {task!r}")
        _check_tensors(graph.inputs, expected[name].inputs, what="input", task=task)
        _check_tensors(graph.outputs, expected[name].outputs, what="output", task=task)
    _check_sizes(graphs, task=task, classes=classes)


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


def _check_sizes(graphs: Mapping[str, Graph], *, task: Task, classes: int) -> None:
    """Check that tensor sizes agree with each other and with the rest of the manifest."""
    if task == "classify":
        columns = _width(graphs["model"].outputs, "probabilities")
        if columns != classes:
            raise ValueError(
                f"'classes' lists {classes} names but 'probabilities' has {columns} columns"
            )
    if task == "segment" and not 2 <= classes <= 256:
        raise ValueError(f"a mask of uint8 needs 2 to 256 classes, 'classes' lists {classes}")
    if task == "embed" and "distance" in graphs:
        width = _width(graphs["model"].outputs, "embedding")
        for name in ("query", "prototypes"):
            if (received := _width(graphs["distance"].inputs, name)) != width:
                raise ValueError(f"{name!r} has {received} columns but 'embedding' has {width}")
    if task == "caption":
        taken = {spec.name: spec for spec in graphs["decoder"].inputs}
        given = {s.name: s for name in graphs for s in graphs[name].outputs}
        for name, end in (("memory", "memory"), ("next_cache", "cache")):
            if given[name].shape != taken[end].shape:
                raise ValueError(f"the decoder takes {taken[end]}, but there is {given[name]}")


def _width(specs: Sequence[TensorSpec], name: str) -> int | str:
    return next(spec.shape[1] for spec in specs if spec.name == name)
