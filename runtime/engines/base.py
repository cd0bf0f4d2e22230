"""What an engine is, and the checks that every engine's arrays go through first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from dlcv.runtime.errors import BundleError, InputError
from dlcv.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from dlcv.runtime.manifest import Graph

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine runs.

    threads: CPU threads inside one call; None lets the engine take every core it may use.
    """

    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be 1 or more, not {self.threads}")


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What really ran: engine and its version, device, and the precision of its arithmetic."""

    name: str
    version: str
    device: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.device} {self.precision}"


class Engine(Protocol):
    """A loaded graph that answers arrays with arrays.

    A Protocol, not a base class: engines share no code but `Closing`, only this shape, and a program
    may pass its own. Implementations are final and not thread-safe: one call at a time.
    """

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in the graph's order."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in the graph's order."""
        ...

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once.

        feeds: an array for every input, dtypes and shapes as `inputs` says.

        The arrays returned are the caller's: no later call overwrites them.

        Raises:
            EngineError: the engine failed on valid arrays.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory and threads. Further calls of `infer` are errors."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Check arrays against input specs: names, dtypes, ranks, fixed sizes, equal symbols.

    Raises:
        InputError: an array is missing, unknown, or of another dtype or shape.
    """
    names = [spec.name for spec in specs]
    if set(names) != set(feeds):
        raise InputError(
            f"the graph takes {', '.join(names)}; received {', '.join(feeds) or 'none'}"
        )
    symbols: dict[str, int] = {}
    for spec in specs:
        array = feeds[spec.name]
        fits = str(array.dtype) == spec.dtype and array.ndim == len(spec.shape)
        for wanted, size in zip(spec.shape, array.shape, strict=False):
            expected = symbols.setdefault(wanted, size) if isinstance(wanted, str) else wanted
            fits = fits and size == expected and size > 0
        if not fits:
            raise InputError(f"the graph takes {spec}; received {array.dtype} {array.shape}")


def check_specs(
    graph: Graph, engine: Engine, *, source: str, outputs: Collection[str] | None = None
) -> None:
    """Check that a loaded graph has the tensors that the manifest promises.

    outputs: names of those that were loaded; None means all.

    Raises:
        BundleError: names, order, dtypes or sizes differ.
    """
    loaded = tuple(s for s in graph.outputs if outputs is None or s.name in outputs)
    for promised, real in ((graph.inputs, engine.inputs), (loaded, engine.outputs)):
        if [str(spec) for spec in promised] != [str(spec) for spec in real]:
            raise BundleError(
                f"{source}: the graph has ({'; '.join(map(str, real))}) where the manifest says "
                f"({'; '.join(map(str, promised))}); export the bundle again"
            )
