"""The second graph of a few-shot bundle: scores of embeddings against prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import nn

from dlcv.export.gate import Run
from dlcv.export.onnx_export import graph_from_module
from dlcv.export.writing import ExportedGraph
from dlcv.runtime.bundle.schema import TensorSpec

Vectors: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

_QUERIES, _CLASSES = 2, 3  # sizes of the example; different, so that the axes stay distinct


def graph_from_distance(distance: nn.Module, *, width: int) -> ExportedGraph:
    """Export a distance for any number of queries and prototypes. width: of the embeddings."""
    random = torch.Generator().manual_seed(0)
    examples = tuple(torch.randn(n, width, generator=random) for n in (_QUERIES, _CLASSES))
    symbols = ("batch", "classes")
    return graph_from_module(
        distance.eval(),
        examples,
        inputs=tuple(
            TensorSpec(name=name, dtype="float32", shape=(symbol, width))
            for name, symbol in zip(("query", "prototypes"), symbols, strict=True)
        ),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=symbols),),
        dimensions=tuple({0: torch.export.Dim(symbol)} for symbol in symbols),
    )


@final
@dataclass(frozen=True)
class DistanceGraph:
    """The graph `distance` of a few-shot bundle; a `FurtherGraph`."""

    distance: nn.Module
    name: str = "distance"

    def graph(self, image_runs: Sequence[Run]) -> ExportedGraph:
        """Export it, for embeddings as wide as those of the photos."""
        width = image_runs[0].expected["embedding"].shape[1]
        return graph_from_distance(self.distance, width=width)

    def runs(self, image_runs: Sequence[Run]) -> list[Run]:
        """Return test cases; see `distance_runs`."""
        return distance_runs(self.distance, image_runs)

    def golden(self, image_runs: Sequence[Run]) -> list[Run]:
        """Return the same of the recorded photos."""
        return self.runs(image_runs)


def distance_runs(distance: nn.Module, image_runs: Sequence[Run]) -> list[Run]:
    """Return test cases from the photos' embeddings: one against all others, then all against all."""
    vectors = np.concatenate([run.expected["embedding"] for run in image_runs])
    return [
        _run(distance, vectors[:1], vectors[1:]),
        _run(distance, vectors, vectors[: len(vectors) - 1]),
    ]


def _run(distance: nn.Module, query: Vectors, prototypes: Vectors) -> Run:
    with torch.inference_mode():
        scores = distance.eval()(torch.tensor(query), torch.tensor(prototypes)).numpy()
    return Run(
        name=f"{len(query)} queries, {len(prototypes)} prototypes",
        feeds={"query": query, "prototypes": prototypes},
        expected={"scores": np.ascontiguousarray(scores)},
    )
