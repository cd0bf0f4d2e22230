"""What the last linear layer of a classifier sees of the test images, at every snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dlcv.train.data.batches import Dataset
from dlcv.train.evaluate import answers
from dlcv.train.figures.request import Request, Skipped

if TYPE_CHECKING:
    from torch import Tensor

    from dlcv.runtime.results import Float32
    from dlcv.train.checkpoint import Checkpoint
    from dlcv.train.recipe import Recipe

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Points of one checkpoint: float32 (N, D)."""

    title: str
    points: Float32


@lru_cache(maxsize=1)  # PCA and t-SNE show the same points
def embeddings_of_run(request: Request) -> tuple[Sequence[Embeddings], Indices]:
    """Return the embeddings at every snapshot and of the kept checkpoint, and the labels int64 (N,) of the points.

    Raises:
        Skipped: the run does not classify, or its network has no linear layer.
    """
    if request.final.recipe.task != "classify":
        raise Skipped("the run segments")
    if last_linear(request.final.model) is None:
        raise Skipped("the network has no linear layer")
    everything = request.test_set
    chosen = evenly_by_class(everything.labels.numpy(), request.points)
    dataset = Dataset(images=everything.images[chosen], labels=everything.labels[chosen])
    found = []
    for title, checkpoint in request.checkpoints():
        request.tell(f"embedding {len(dataset):,} images: {title}")
        accuracy = checkpoint.metrics.get("accuracy")
        score = "" if accuracy is None else f": accuracy {accuracy:.3f}"
        points = embeddings_from(checkpoint, dataset)
        found.append(Embeddings(title=f"{title}{score}", points=points))
    return found, dataset.labels.numpy()


def embeddings_from(checkpoint: Checkpoint[Recipe], dataset: Dataset) -> Float32:
    """Return what the last linear layer gets of each image, float32 (N, D)."""
    with _inputs_of(last_linear(checkpoint.model)) as seen:
        for _ in answers(checkpoint, dataset):
            pass
    return torch.cat(seen).float().numpy()


def last_linear(model: nn.Module) -> nn.Linear | None:
    """Return the classifier's last linear layer, which gives the logits."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1] if linears else None


def evenly_by_class(labels: Indices, count: int) -> Indices:
    """Return in order the indices of at most `count` labels, of every class the same number as far as there are."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    number_in_class = np.empty_like(order)
    number_in_class[order] = np.arange(len(labels)) - starts
    return np.sort(np.lexsort((labels, number_in_class))[:count])


@contextmanager
def _inputs_of(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect what a layer gets while the context lasts."""
    seen: list[Tensor] = []
    if layer is None:
        raise ValueError("the network has no linear layer")
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
