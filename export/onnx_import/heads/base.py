"""What a head is: how a file's scores become a bundle's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from dlcv.runtime.engines.base import Arrays

if TYPE_CHECKING:
    from dlcv.export.onnx_import.image_input import Entry
    from dlcv.export.onnx_import.nodes import Nodes
    from dlcv.export.onnx_import.options import ImportOptions
    from dlcv.runtime.bundle.schema import TensorSpec

Array: TypeAlias = "np.ndarray[Any, Any]"


class Head(Protocol):
    """How the tapped tensors of a file become the outputs of one task: in numpy for the reference, and as nodes.

    A Protocol, because the heads of two tasks share no code that is not a part of its own: `Activation`, `Vectors`.
    """

    @property
    def classes(self) -> int:
        """How many classes the bundle names; none for embeddings."""
        ...

    @property
    def threshold(self) -> float | None:
        """With activation sigmoid, as in `Manifest`; None: softmax."""
        ...

    @property
    def colors_classes(self) -> bool:
        """Whether classes are drawn, and get colours."""
        ...

    def outputs(self, entry: Entry, /) -> tuple[TensorSpec, ...]:
        """Return the bundle's outputs in order."""
        ...

    def answers(self, tensors: Sequence[Array], size: tuple[int, int], /) -> Arrays:
        """Return the bundle's outputs. tensors: as tapped, (B, ...). size: (height, width) of the images."""
        ...

    def add_to(self, nodes: Nodes, tensors: Sequence[str], entry: Entry, /) -> None:
        """Add the nodes that give the same as `answers`. tensors: names of the tapped ones."""
        ...


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a file was found to give, from which a head is made.

    shapes: of the tapped tensors of one image: scores and, for some, an embedding. samples: the scores (1, ...) of each of
    several photos.
    """

    shapes: Sequence[tuple[int, ...]]
    samples: Sequence[Array]
    entry: Entry
    options: ImportOptions


def words_of(shape: tuple[int, ...]) -> str:
    """Return the shape of one image's tensor, for messages."""
    return f"({', '.join(map(str, shape))})"
