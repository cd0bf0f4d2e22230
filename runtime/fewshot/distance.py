"""How embeddings are compared: by the bundle's own graph, or by their cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.base import EngineOptions
from dlcv.runtime.machine.closing import Closing

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.results import Float32
    from dlcv.runtime.running.predictor import Predictor

COSINE_SCALE = 20.0
_GRAPH = "distance"


@final
class BundleDistance(Closing):
    """The distance that a few-shot bundle was trained with, on its predictor's engine.

    Of any other bundle, the cosine of embeddings, as Chen et al. 2019 compare them
    (https://arxiv.org/abs/1904.04232), times `COSINE_SCALE`, so that a softmax makes probabilities of it.
    """

    def __init__(self, predictor: Predictor) -> None:
        bundle = predictor.bundle
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
        """Return how near query (B, D) is to each of prototypes (classes, D), float32 (B, classes)."""
        if self._engine is None:
            cosines: Float32 = unit(query) @ unit(prototypes).T
            return COSINE_SCALE * cosines
        return self._engine.infer({"query": query, "prototypes": prototypes})["scores"]

    def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.close()


def has_distance(bundle: Bundle) -> bool:
    """Whether a bundle brings a distance of its own."""
    return _GRAPH in bundle.manifest.graphs


def averageable(vectors: Float32, bundle: Bundle) -> Float32:
    """Return a bundle's embeddings (N, D) as prototypes are means of: for the cosine, of length 1."""
    return vectors if has_distance(bundle) else unit(vectors)


def unit(vectors: Float32) -> Float32:
    """Scale vectors (N, D) to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
