"""A cache of CUDA graphs by shape. The least recently used graph is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, final

from dlcv.runtime.engines.cuda_device import Device, Handle
from dlcv.runtime.engines.tensorrt.optimization_profile import Shape

GRAPHS_KEPT = 8
_KEYS_REMEMBERED = 256


@dataclass(frozen=True, kw_only=True)
class RecordedGraph:
    """A CUDA graph, its execution context, and the shapes of its outputs."""

    graph: Handle
    context: Any
    outputs: dict[str, Shape]


@final
class RecordedGraphs:
    """At most GRAPHS_KEPT CUDA graphs by key (buffers and shapes).

    A graph is valid only while its execution context is unchanged, so each graph has its own context; the
    context of a dropped graph is reused. A key is recorded the second time it is seen, because many sizes occur
    only once.
    """

    def __init__(self, new_context: Callable[[], Any], device: Device, *, enabled: bool) -> None:
        self._new_context = new_context
        self._device = device
        self._enabled = enabled
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._kept: OrderedDict[Hashable, RecordedGraph] = OrderedDict()

    def find(self, key: Hashable) -> RecordedGraph | None:
        """Return the graph of a key."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def context_due(self, key: Hashable) -> Any | None:
        """Return a context on which to run and then record a key, or None if it is not to be recorded now."""
        if not self._enabled:
            return None
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _KEYS_REMEMBERED:
                self._seen.popitem(last=False)
            return None
        if len(self._kept) < GRAPHS_KEPT:
            return self._new_context()
        _, oldest = self._kept.popitem(last=False)
        self._device.free_graph(oldest.graph)
        return oldest.context

    def record(
        self,
        key: Hashable,
        *,
        context: Any,
        launch: Callable[[], None],
        stream: Handle,
        outputs: dict[str, Shape],
    ) -> None:
        """Record a launch that has just run once on its context, as TensorRT requires.

        A network that cannot be recorded runs without graphs from then on.
        """
        graph = self._device.captured(launch, stream=stream)
        if graph is None:
            self._enabled = False
            return
        self._kept[key] = RecordedGraph(graph=graph, context=context, outputs=outputs)

    def close(self) -> None:
        """Free all graphs and their contexts."""
        for kept in self._kept.values():
            self._device.free_graph(kept.graph)
        self._kept.clear()
