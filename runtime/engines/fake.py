"""An engine for tests that calls plain functions, also for programs that embed dlcv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

from dlcv.runtime.bundle.schema import Graph, TensorSpec
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineInfo, check_feeds


@final
class FakeEngine(EngineBase):
    """Returns `compute(feeds)`; without a function, zeros in the graph's output shapes.

    `calls` records the shape of every batch.
    """

    def __init__(
        self, graph: Graph, compute: Callable[[Mapping[str, Any]], Arrays] | None = None
    ) -> None:
        self._graph = graph
        self._compute = compute or self._zeros
        self.calls: list[tuple[int, ...]] = []
        self.closed = False

    @property
    def info(self) -> EngineInfo:
        """The engine, version, device and precision that run."""
        return EngineInfo(name="fake", version="1", device="cpu", precision="fp32")

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in the graph's order."""
        return self._graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in the graph's order."""
        return self._graph.outputs

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the function once; see `Engine.infer`."""
        check_feeds(self.inputs, feeds)
        self.calls.append(next(iter(feeds.values())).shape)
        return {name: np.array(array) for name, array in self._compute(feeds).items()}

    def close(self) -> None:
        """Record that the engine was closed."""
        self.closed = True

    def _zeros(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        sizes: dict[int | str, int] = {}
        for spec in self.inputs:
            sizes |= dict(zip(spec.shape, feeds[spec.name].shape, strict=True))
        return {
            spec.name: np.zeros([int(sizes.get(d, d)) for d in spec.shape], spec.dtype)
            for spec in self.outputs
        }
