"""Embeddings of the test images at every snapshot.

The embedding is the input of a classifier's last linear layer, or an embedder's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dlcv.train.byol.recipe import ByolRecipe
from dlcv.train.data import AnyDataset, open_dataset
from dlcv.train.data.batches import Dataset, PlainBatches
from dlcv.train.fewshot.data import load_split
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.figures.request import Request, Skipped
from dlcv.train.modules import normalised
from dlcv.train.recipe import Recipe
from dlcv.train.tasks import task_kind

if TYPE_CHECKING:
    from torch import Tensor

    from dlcv.runtime.results import Float32
    from dlcv.train.checkpoint import Checkpoint

_AT_ONCE = 64
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The embeddings of one checkpoint: float32 (N, D)."""

    title: str
    points: Float32


@lru_cache(maxsize=1)  # PCA and t-SNE show the same points
def embeddings_of_run(request: Request) -> tuple[Sequence[Embeddings], Indices, Sequence[str]]:
    """Return embeddings at every snapshot and of the kept checkpoint, labels int64 (N,), and class names.

    Raises:
        Skipped: the run gives no embeddings, or its network has no linear layer.
    """
    everything, names = _test_images(request)
    chosen = evenly_by_class(everything.labels.numpy(), request.points)
    images, labels = everything.batch(torch.from_numpy(chosen))
    dataset = Dataset(images=images, labels=labels)
    monitor = task_kind(request.final.recipe.task).monitor
    found = []
    for title, checkpoint in request.checkpoints():
        request.tell(f"embedding {len(dataset):,} images: {title}")
        value = checkpoint.metrics.get(monitor)
        score = "" if value is None else f": {monitor.replace('_', ' ')} {value:.3f}"
        points = embeddings_from(checkpoint, dataset)
        found.append(Embeddings(title=f"{title}{score}", points=points))
    return found, dataset.labels.numpy(), names


def _test_images(request: Request) -> tuple[AnyDataset, Sequence[str]]:
    """Return the labelled test images of a run, and the class names."""
    recipe = request.final.recipe
    if isinstance(recipe, FewShotRecipe):
        split = load_split(recipe, request.root, split="test")
        return split.images, split.classes
    if isinstance(recipe, ByolRecipe):
        return open_dataset(recipe, request.root, split="test"), recipe.class_names
    if request.labelled.recipe.task != "classify":
        raise Skipped("the run segments")
    if last_linear(request.final.model) is None:
        raise Skipped("the network has no linear layer")
    return request.test_set, recipe.class_names


def embeddings_from(checkpoint: Checkpoint[Any], dataset: Dataset) -> Float32:
    """Return the embedding of each image, float32 (N, D).

    It is the input of a classifier's last linear layer, or an embedder's output.
    """
    recipe = checkpoint.recipe
    batches = (
        normalised(images, recipe.normalization)
        for images, _ in PlainBatches(dataset=dataset, batch=_AT_ONCE)
    )
    with torch.inference_mode():
        if not isinstance(recipe, Recipe):
            rows = [checkpoint.model(pixels) for pixels in batches]
        else:
            with _inputs_of(last_linear(checkpoint.model)) as rows:
                for pixels in batches:
                    checkpoint.model(pixels)
    vectors: Float32 = torch.cat(rows).float().numpy()
    return vectors


def last_linear(model: nn.Module) -> nn.Linear | None:
    """Return the classifier's last linear layer, which computes the logits."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1] if linears else None


def evenly_by_class(labels: Indices, count: int) -> Indices:
    """Return, in order, the indices of at most `count` labels, equally many of every class if possible."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    number_in_class = np.empty_like(order)
    number_in_class[order] = np.arange(len(labels)) - starts
    return np.sort(np.lexsort((labels, number_in_class))[:count])


@contextmanager
def _inputs_of(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect a layer's inputs inside a context."""
    seen: list[Tensor] = []
    if layer is None:
        raise ValueError("the network has no linear layer")
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
