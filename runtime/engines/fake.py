"""An engine of plain functions, for tests: of dlcv, and of programs that embed dlcv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

from dlcv.runtime.bundle.schema import Graph, TensorSpec
from dlcv.runtime.engines.base import Arrays, EngineInfo, check_feeds
from dlcv.runtime.machine.closing import Closing


@final
class FakeEngine(Closing):
    """Answers with `compute(feeds)`, or without one with zeros of the graph's output shapes.

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
        """What runs."""
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
        return self._compute(feeds)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def _zeros(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        sizes: dict[int | str, int] = {}
        for spec in self.inputs:
            sizes |= dict(zip(spec.shape, feeds[spec.name].shape, strict=True))
        return {
            spec.name: np.zeros([int(sizes.get(d, d)) for d in spec.shape], spec.dtype)
            for spec in self.outputs
        }
