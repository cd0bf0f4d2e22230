"""Engines of other packages: entry points of the group `dlcv.engines`, whose values are `EngineEntry` objects.

Nothing of another package is imported before its engine is asked for by name, or engines are listed with their state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, final, get_args

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines.base import (
    Arrays,
    DeviceTimer,
    Engine,
    EngineBase,
    EngineModel,
    EngineOptions,
    UInt8,
    check_feeds,
)
from dlcv.runtime.engines.entry import EngineEntry
from dlcv.runtime.errors import DlcvError, EngineError, EngineUnavailableError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

    import numpy as np

GROUP = "dlcv.engines"


def added_names() -> list[str]:
    """Return the names of other packages' engines, sorted. Nothing is imported."""
    return sorted({point.name for point in _points()})


def added_versions() -> dict[str, str]:
    """Return the versions of the packages that add engines, by package. Nothing is imported."""
    return {p.dist.name: p.dist.version for p in _points() if p.dist is not None}


def added_entry(name: str) -> EngineEntry | None:
    """Import the entry of another package's engine; None if no package adds one of this name.

    Raises:
        EngineUnavailableError: the package cannot be imported or gives something else, or two packages add the name.
    """
    points = [point for point in _points() if point.name == name]
    if not points:
        return None
    if len(points) > 1:
        packages = " and by ".join(map(_package, points))
        raise EngineUnavailableError(
            f"engine {name!r} is added by {packages}; uninstall all but one"
        )
    return _imported(points[0])


def _points() -> EntryPoints:
    from importlib.metadata import entry_points  # takes as long as the rest of this room

    return entry_points(group=GROUP)


def _imported(point: EntryPoint) -> EngineEntry:
    package = _package(point)
    try:
        entry = point.load()
    except Exception as e:  # anything can come from another package
        raise EngineUnavailableError(
            f"engine {point.name!r} of {package} cannot be imported ({_line(e)}); update or uninstall {package}"
        ) from e
    if not isinstance(entry, EngineEntry):
        raise EngineUnavailableError(
            f"engine {point.name!r} of {package} must be a dlcv.runtime.engines.EngineEntry, "
            f"not {type(entry).__name__}; update or uninstall {package}"
        )
    return entry


@final
class AddedEngine(EngineBase):
    """Another package's engine: inputs are checked before it, and whatever it raises becomes an `EngineError`."""

    def __init__(
        self, entry: EngineEntry, model: EngineModel, *, options: EngineOptions, name: str
    ) -> None:
        """Load a model. name: of the entry point, by which results call the engine."""
        self._name = name
        with self._named_errors():
            self._engine: Engine = entry.engine_class()(model, options)
            self._info = replace(self._engine.info, name=name)
            self._inputs, self._outputs = self._engine.inputs, self._engine.outputs
            if self._info.precision not in get_args(Precision):
                raise ValueError(f"there is no precision {self._info.precision!r}")

    @property
    def batches_in_flight(self) -> int:
        """How many runs may be started before the first is finished; see `Engine.batches_in_flight`."""
        return self._engine.batches_in_flight

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`."""
        check_feeds(self._inputs, feeds)
        with self._named_errors():
            return self._engine.infer(feeds)

    def host_memory(self, size: int) -> UInt8:
        """Return `size` bytes to fill with inputs; see `Engine.host_memory`."""
        with self._named_errors():
            return self._engine.host_memory(size)

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Start a run; see `Engine.start`."""
        check_feeds(self._inputs, feeds)
        with self._named_errors():
            finish = self._engine.start(feeds)

        def finished() -> Arrays:
            with self._named_errors():
                return finish()

        return finished

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time the device alone, where the entry has `needs_gpu`; see `DeviceTimer.device_seconds`."""
        with self._named_errors():
            return cast("DeviceTimer", self._engine).device_seconds(feeds, repeats=repeats)

    def close(self) -> None:
        """Free the engine."""
        with self._named_errors():
            self._engine.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except DlcvError:
            raise
        except Exception as e:  # anything can come from another package
            raise EngineError(
                f"engine {self._name!r}, which another package adds, failed: {_line(e)}; "
                "tell its authors, or use another --engine"
            ) from e


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist is not None else f"entry point {point.value}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
