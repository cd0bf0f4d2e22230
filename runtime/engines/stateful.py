"""Runs that go on from each other: outputs of one are inputs of the next, as the cache of a decoder that writes word by word.

An engine that can keeps such tensors on its device. With any other they go through the host, by `infer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, final

import numpy as np

from dlcv.runtime.engines.base import Arrays, Engine
from dlcv.runtime.engines.registry import ENGINES

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class State:
    """What stays from run to run.

    carried: names of outputs, and of the inputs that they are in the next run; shape and dtype are equal. first: these
    inputs in the first run. held: inputs that are the same in all runs. The first axis of all is the batch's.
    """

    carried: Mapping[str, str]
    first: Arrays
    held: Arrays


class StatefulRuns(Protocol):
    """Runs of one state, on the engine's own thread."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once. feeds: the inputs that are new. Returns the outputs that are not carried; they are the caller's.

        Raises:
            InputError: an input does not fit.
            EngineError: the engine failed.
        """
        ...

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Replace each row of what is carried by that of row `rows[i]`."""
        ...


class KeepsState(Protocol):
    """An optional ability of engines, where their entry has `keeps_state`."""

    def begin(self, state: State) -> StatefulRuns:
        """Return runs that keep a state on the engine's device."""
        ...


def stateful_runs(engine: Engine, state: State) -> StatefulRuns:
    """Return runs of a state on an engine, which keeps it on its device if it can."""
    entry = ENGINES.get(engine.info.name)
    if entry is not None and entry.keeps_state:
        return cast("KeepsState", engine).begin(state)
    return HostRuns(engine, state)


@final
class HostRuns:
    """Runs whose state goes through the host."""

    def __init__(self, engine: Engine, state: State) -> None:
        self._engine, self._state = engine, state
        self._kept: Arrays = dict(state.first)

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `StatefulRuns.run`."""
        outputs = self._engine.infer({**feeds, **self._kept, **self._state.held})
        for output, name in self._state.carried.items():
            self._kept[name] = outputs.pop(output)
        return outputs

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Replace rows of the state; see `StatefulRuns.reorder`."""
        self._kept = {name: array[rows] for name, array in self._kept.items()}
