"""The head of classifiers: a probability of each class or label, and an embedding where the graph shows one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from dlcv.export.onnx_import.heads.activation import Activation, activation_of
from dlcv.export.onnx_import.heads.base import words_of
from dlcv.export.onnx_import.heads.vectors import Vectors, are_vectors, vectors_of
from dlcv.export.onnx_import.intermediates import Tap, embedding_tap, output_tap
from dlcv.export.sources.base import threshold_for
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

    from dlcv.export.onnx_import.heads.base import Findings
    from dlcv.export.onnx_import.image_input import Entry
    from dlcv.export.onnx_import.nodes import Nodes
    from dlcv.export.onnx_import.options import ImportOptions

Array: TypeAlias = "np.ndarray[Any, Any]"


@final
@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """Gives `probabilities` float32 (B, classes) from as many scores, and `embedding`.

    scores: how many an image has. threshold: of independent labels; None: classes exclude each other. One score is then
    that of the second of two classes, and a sigmoid does what a softmax over both would.
    """

    scores: int
    activation: Activation
    threshold: float | None
    embedding: Vectors | None
    colors_classes: bool = field(default=False, init=False)

    @property
    def classes(self) -> int:
        """The number of classes or labels."""
        return 2 if self._is_pair else self.scores

    @property
    def _is_pair(self) -> bool:
        return self.scores == 1 and self.threshold is None

    def outputs(self, _: Entry) -> tuple[TensorSpec, ...]:
        """Return the bundle's outputs in order."""
        shape = ("batch", self.classes)
        probabilities = TensorSpec(name="probabilities", dtype="float32", shape=shape)
        return (probabilities, *([self.embedding.output] if self.embedding else []))

    def answers(self, tensors: Sequence[Array], _: tuple[int, int]) -> Arrays:
        """Return the bundle's outputs, of images of any size."""
        found = self.activation(_flat(tensors[0]))
        if self._is_pair:
            found = np.concatenate([1 - found, found], axis=1)
        answers = {"probabilities": found.astype(np.float32)}
        if self.embedding is not None:
            answers["embedding"] = self.embedding.answers(tensors[1])
        return answers

    def add_to(self, nodes: Nodes, tensors: Sequence[str], _: Entry) -> None:
        """Add the nodes that give the same as `answers`."""
        scores = nodes.add("Flatten", nodes.floats(tensors[0]), axis=1)
        if self._is_pair:
            second = self.activation.add_to(nodes, scores)
            first = nodes.add("Sub", nodes.constant(np.ones(1, np.float32)), second)
            nodes.add("Concat", first, second, output="probabilities", axis=1)
        else:
            self.activation.add_to(nodes, scores, output="probabilities")
        if self.embedding is not None:
            self.embedding.add_to(nodes, tensors[1])


def classifier_taps(
    model: onnx.ModelProto, entry: Entry, options: ImportOptions
) -> tuple[Tap, ...]:
    """Return the scores and, where the graph shows one or the user names one, the embedding.

    Raises:
        InputError: a tensor that the user names is not there, or the graph has several outputs.
    """
    output = output_tap(model, options.output)
    embedding = embedding_tap(model, output, image=entry.name, name=options.embedding)
    return (output,) if embedding is None else (output, embedding)


def classifier_head(found: Findings) -> ClassifierHead:
    """Return the head that fits what a file gives and what the user says of it.

    Raises:
        InputError: the output is not one score a class, the named embedding is no vector, or an option does not fit.
    """
    options, scores = found.options, _score_count(found.shapes[0])
    activation = options.activation or "softmax"
    threshold = threshold_for(activation, options.threshold)
    is_pair = scores == 1 and threshold is None
    return ClassifierHead(
        scores=scores,
        activation=activation_of(
            [_flat(scores) for scores in found.samples],
            name="sigmoid" if is_pair else activation,
            logits=options.logits,
        ),
        threshold=threshold,
        embedding=_embedding(found),
    )


def _embedding(found: Findings) -> Vectors | None:
    """Return the named embedding, or one that the graph shows, if it is a vector."""
    shapes = found.shapes[1:]
    if found.options.embedding is None:
        shapes = [shape for shape in shapes if are_vectors(shape)]
    return vectors_of(shapes[0], option="--embedding") if shapes else None


def _score_count(shape: tuple[int, ...]) -> int:
    if len(shape) not in (1, 2, 3) or any(n > 1 for n in sorted(shape)[:-1]):
        raise InputError(
            f"the output is {words_of(shape)} for each image; --task classify needs one score a class; "
            "name another tensor by --output, or another --task"
        )
    return int(np.prod(shape))


def _flat(scores: Array) -> Array:
    """Return float64 (B, classes)."""
    return scores.reshape(len(scores), -1).astype(np.float64)
