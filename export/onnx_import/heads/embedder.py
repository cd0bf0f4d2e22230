"""The head of embedders: a vector of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from dlcv.export.onnx_import.heads.vectors import Vectors, vectors_of
from dlcv.runtime.engines.base import Arrays

if TYPE_CHECKING:
    from dlcv.export.onnx_import.heads.base import Findings
    from dlcv.export.onnx_import.image_input import Entry
    from dlcv.export.onnx_import.nodes import Nodes
    from dlcv.runtime.bundle.schema import TensorSpec

Array: TypeAlias = "np.ndarray[Any, Any]"


@final
@dataclass(frozen=True, kw_only=True)
class EmbedderHead:
    """Gives `embedding` float32 (B, D) from (B, D), or from maps (B, D, h, w)."""

    embedding: Vectors
    classes: int = field(default=0, init=False)
    threshold: None = field(default=None, init=False)
    colors_classes: bool = field(default=False, init=False)

    def outputs(self, _: Entry) -> tuple[TensorSpec, ...]:
        """Return the bundle's outputs in order."""
        return (self.embedding.output,)

    def answers(self, tensors: Sequence[Array], _: tuple[int, int]) -> Arrays:
        """Return the bundle's outputs, of images of any size."""
        return {"embedding": self.embedding.answers(tensors[0])}

    def add_to(self, nodes: Nodes, tensors: Sequence[str], _: Entry) -> None:
        """Add the nodes that give the same as `answers`."""
        self.embedding.add_to(nodes, tensors[0])


def embedder_head(found: Findings) -> EmbedderHead:
    """Return the head that fits what a file gives.

    Raises:
        InputError: the output is no vector.
    """
    return EmbedderHead(embedding=vectors_of(found.shapes[0], option="--output"))
