"""A cache of CUDA graphs by shape. A graph is dropped only for a shape that is clearly more frequent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, final

from dlcv.runtime.engines.cuda_device import Device, Handle
from dlcv.runtime.engines.tensorrt.optimization_profile import Shape
from dlcv.runtime.errors import EngineError

GRAPHS_KEPT = 8
_KEYS_REMEMBERED = 256
_LOOKUPS_PER_HALVING = (
    512  # after so many, counts are halved: what was frequent long ago makes room
)


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
    only once. When there are GRAPHS_KEPT, a new key takes the place of the least frequent one only if it is clearly more
    frequent: of more sizes that recur alike, some run as graphs and the others plainly, and none is recorded again and again.
    """

    def __init__(
        self,
        new_context: Callable[[], Any],
        device: Device,
        *,
        enabled: bool,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Keep no graphs yet. say: told once why there are no more graphs, where one cannot be made."""
        self._new_context = new_context
        self._device = device
        self._enabled = enabled
        self._say = say
        self._counts: OrderedDict[Hashable, int] = OrderedDict()  # least recently seen first
        self._lookups = 0
        self._kept: dict[Hashable, RecordedGraph] = {}

    def find(self, key: Hashable) -> RecordedGraph | None:
        """Return the graph of a key, and count that it was asked for."""
        if self._enabled:
            self._count(key)
        return self._kept.get(key)

    def context_due(self, key: Hashable) -> Any | None:
        """Return a context on which to run and then record a key that has no graph, or None if it is not to be recorded now."""
        if not self._enabled or self._counts[key] < 2:
            return None
        if len(self._kept) < GRAPHS_KEPT:
            return self._context_or_none()
        least = min(self._kept, key=lambda kept: self._counts.get(kept, 0))
        if self._counts[key] <= 2 * self._counts.get(least, 0) + GRAPHS_KEPT:
            return None
        dropped = self._kept.pop(least)
        self._device.free_graph(dropped.graph)
        return dropped.context

    def _count(self, key: Hashable) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1
        self._counts.move_to_end(key)
        if len(self._counts) > _KEYS_REMEMBERED:
            self._counts.popitem(last=False)
        self._lookups += 1
        if self._lookups % _LOOKUPS_PER_HALVING == 0:
            for known in self._counts:
                self._counts[known] //= 2

    def _context_or_none(self) -> Any | None:
        try:
            return self._new_context()
        except EngineError as e:
            self._stop_recording(f"there is no execution context for one ({e})")
            return None

    def _stop_recording(self, reason: str) -> None:
        """Run shapes that have no graph plainly from now on."""
        self._enabled = False
        self._say(f"no more CUDA graphs are recorded, because {reason}; other shapes run without")

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
            self._stop_recording("CUDA cannot capture this network")
            return
        self._kept[key] = RecordedGraph(graph=graph, context=context, outputs=outputs)

    def close(self) -> None:
        """Free all graphs and their contexts."""
        for kept in self._kept.values():
            self._device.free_graph(kept.graph)
        self._kept.clear()
