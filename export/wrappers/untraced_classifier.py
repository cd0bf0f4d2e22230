"""Wrapper for classifiers whose code torch.fx cannot follow: probabilities, and the embedding where the graph shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from dlcv.export.wrappers.base import Normalize, Wrapper
from dlcv.runtime.bundle.schema import Activation

if TYPE_CHECKING:
    from dlcv.export.writing import ExportedGraph


@final
class UntracedClassifierWrapper(Wrapper):
    """Returns probabilities, and the embedding if the logits come from a last linear layer with one vector an image.

    That vector is found in the exported graph, where it is the input of the last matrix product. The reference sees
    it in PyTorch, as the input of the linear layer whose output is the logits; the parity gate compares the two.
    size: (height, width) of the graph's input.
    """

    output_names = ("probabilities",)

    def __init__(
        self,
        model: nn.Module,
        normalize: Normalize,
        activation: Activation = "softmax",
        *,
        size: tuple[int, int],
    ) -> None:
        super().__init__(normalize, activation)
        self.model = model
        self._last = _last_linear(model, torch.zeros(2, normalize.channels, *size))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities. image: uint8 (B, H, W, C)."""
        return (self.probabilities(self.model(self.normalize(image))),)

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """The names of the finished graph's outputs."""
        return (*self.output_names, "embedding") if self._last else self.output_names

    def reference(self, image: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name, with the embedding. image: uint8 (B, H, W, C)."""
        with _watched([self._last] if self._last else []) as seen:
            outputs = super().reference(image)
        return outputs | ({"embedding": seen[-1][1]} if seen else {})

    def finished(self, graph: ExportedGraph) -> ExportedGraph:
        """Return the graph with the output `embedding`, where it can be found."""
        from dlcv.export.embedding_output import with_embedding

        if self._last is None:
            return graph
        found = with_embedding(graph, width=self._last.in_features)
        if found is None:
            self._last = None
            return graph
        return found


@contextmanager
def _watched(linears: list[nn.Linear]) -> Iterator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Record which layers run, in order, with their inputs and outputs. The layers are not changed."""
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        seen.append((layer, inputs[0], output))

    handles = [layer.register_forward_hook(record) for layer in linears]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _last_linear(model: nn.Module, pixels: Tensor) -> nn.Linear | None:
    """Return the layer that takes one vector an image and gives the logits."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.inference_mode(), _watched(linears) as seen:
        logits: Tensor = model(pixels)
    for layer, vectors, output in reversed(seen):
        if vectors.ndim == 2 and output.shape == logits.shape and torch.equal(output, logits):
            return layer
    return None
