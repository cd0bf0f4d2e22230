"""Distances between embeddings: the bundle's own graph, or cosine similarity."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np

from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.base import EngineOptions
from dlcv.runtime.errors import ModelClosedError
from dlcv.runtime.machine.closing import Closing

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.results import Float32
    from dlcv.runtime.running.predictor import Predictor

COSINE_SCALE = 20.0
_GRAPH = "distance"


@final
class BundleDistance(Closing):
    """The distance that a few-shot bundle was trained with, on the predictor's engine.

    For other bundles: cosine similarity of embeddings, as in Chen et al. 2019
    (https://arxiv.org/abs/1904.04232), times `COSINE_SCALE`, so that a softmax gives usable probabilities.
    """

    def __init__(self, predictor: Predictor) -> None:
        bundle = predictor.bundle
        self._predictor = predictor
        self._engine = (
            load_engine(
                bundle,
                predictor.engine.info.name,
                graph=_GRAPH,
                precision=bundle.graph(_GRAPH).default_precision,
                options=EngineOptions(batch_size=predictor.batch_size),
            )
            if has_distance(bundle)
            else None
        )

    def __call__(self, query: Float32, prototypes: Float32) -> Float32:
        """Return the scores of query (B, D) against prototypes (classes, D), float32 (B, classes). More is nearer."""
        if self._engine is None:
            cosines: Float32 = unit(query) @ unit(prototypes).T
            return COSINE_SCALE * cosines
        run = partial(self._engine.infer, {"query": query, "prototypes": prototypes})
        return self._predictor.call(run)["scores"]  # any thread may ask

    def close(self) -> None:
        """Free the engine, on the thread that ran it as long as there is one."""
        if self._engine is None:
            return
        try:
            self._predictor.call(self._engine.close)
        except ModelClosedError:
            self._engine.close()


def has_distance(bundle: Bundle) -> bool:
    """Return whether a bundle has a distance graph of its own."""
    return _GRAPH in bundle.manifest.graphs


def averageable(vectors: Float32, bundle: Bundle) -> Float32:
    """Return a bundle's embeddings (N, D) in the form that is averaged to prototypes: unit length for cosine."""
    return vectors if has_distance(bundle) else unit(vectors)


def unit(vectors: Float32) -> Float32:
    """Scale vectors (N, D) to unit length; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
