"""The output `embedding`, of classifiers and embedders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from dlcv.export.onnx_import.heads.base import words_of
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    from dlcv.export.onnx_import.nodes import Nodes

Array: TypeAlias = "np.ndarray[Any, Any]"
_RANKS = (1, 3)  # (D) or (D, h, w)


@final
@dataclass(frozen=True)
class Vectors:
    """An embedding of each image. shape: of one image's, (D) or (D, h, w), which is averaged over h and w."""

    shape: tuple[int, ...]

    @property
    def output(self) -> TensorSpec:
        """The bundle's output."""
        return TensorSpec(name="embedding", dtype="float32", shape=("batch", self.shape[0]))

    def answers(self, tensor: Array) -> Array:
        """Return float32 (B, D)."""
        means = tensor.mean(axis=(2, 3), dtype=np.float64) if len(self.shape) == 3 else tensor
        return means.astype(np.float32)

    def add_to(self, nodes: Nodes, tensor: str) -> None:
        """Add the nodes that give the same as `answers`."""
        floats = nodes.floats(tensor)
        if len(self.shape) == 3:
            axes = nodes.constant(np.array([2, 3]))
            nodes.add("ReduceMean", floats, axes, output="embedding", keepdims=0)
        else:
            nodes.add("Identity", floats, output="embedding")


def are_vectors(shape: tuple[int, ...]) -> bool:
    """Return whether one image's tensor of this shape can be its embedding."""
    return len(shape) in _RANKS


def vectors_of(shape: tuple[int, ...], *, option: str) -> Vectors:
    """Return the embedding in tensors of a shape. option: what names another tensor.

    Raises:
        InputError: it is neither (D) nor (D, h, w).
    """
    if not are_vectors(shape):
        raise InputError(
            f"the embedding is {words_of(shape)} for each image; (D) or (D, h, w) is needed; "
            f"name another tensor by {option}"
        )
    return Vectors(shape)
