"""Scores become probabilities: by a softmax, by a sigmoid, or they are already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    from dlcv.export.onnx_import.nodes import Nodes
    from dlcv.export.onnx_import.options import Logits
    from dlcv.runtime.bundle import schema

Array: TypeAlias = "np.ndarray[Any, Any]"
_TOLERANCE = 0.01  # of probabilities in half precision or int8


@final
@dataclass(frozen=True, kw_only=True)
class Activation:
    """What turns scores into probabilities along axis 1.

    name: softmax (of classes that exclude each other) or sigmoid (of each score alone). is_added: the scores are logits;
    if not, they are probabilities already.
    """

    name: schema.Activation
    is_added: bool

    def __call__(self, scores: Array) -> Array:
        """Return probabilities. scores: float64 (B, C, ...)."""
        if not self.is_added:
            return scores
        return _softmax(scores) if self.name == "softmax" else np.exp(-np.logaddexp(0, -scores))

    def add_to(self, nodes: Nodes, scores: str, *, output: str = "") -> str:
        """Add the node, if one is needed, and return the name of the probabilities."""
        if self.is_added:
            axis = {"axis": 1} if self.name == "softmax" else {}
            return nodes.add(self.name.capitalize(), scores, output=output, **axis)
        return nodes.add("Identity", scores, output=output) if output else scores


def activation_of(
    samples: Sequence[Array], *, name: schema.Activation, logits: Logits
) -> Activation:
    """Return an activation that is added where the scores are logits, as the user says or as photos show.

    samples: scores (1, C, ...) of photos.

    Raises:
        InputError: the user says that the scores are no logits, but they are no probabilities.
    """
    probable = all(_are_probabilities(scores, name) for scores in samples)
    if logits == "no" and not probable:
        words = "0..1, with a sum of 1 over the classes" if name == "softmax" else "0..1"
        raise InputError(
            f"--logits no, but the output's scores are not probabilities ({words}); "
            "give --logits yes or auto"
        )
    return Activation(name=name, is_added=logits == "yes" or (logits == "auto" and not probable))


def _are_probabilities(scores: Array, name: schema.Activation) -> bool:
    values = scores.astype(np.float64)
    inside = values.min() >= -_TOLERANCE and values.max() <= 1 + _TOLERANCE
    exclusive = name == "sigmoid" or np.allclose(values.sum(1), 1, atol=_TOLERANCE)
    return bool(inside and exclusive)


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
