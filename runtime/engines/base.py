"""What an engine is, and the checks that every engine's arrays go through first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar

import msgspec

from dlcv.runtime.bundle.schema import Plan, Precision, TensorSpec
from dlcv.runtime.errors import BundleError, InputError
from dlcv.runtime.machine.closing import Closing

if TYPE_CHECKING:
    import numpy as np

    from dlcv.runtime.bundle.schema import Graph

DEFAULT_BATCH_SIZE = 8
UNKNOWN = "?"  # a dynamic dimension without a symbol

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """A compiled engine that lies in a bundle. read: returns its bytes, checked against the manifest."""

    plan: Plan
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """What an engine loads.

    onnx: the serialised graph, cut to the wanted outputs. tensors: its inputs and outputs as the manifest lists
    them, with symbols, which some engines forget. precision: of its arithmetic. source: where it comes from, for
    messages. largest: (height, width) of the largest images that will come; None where
    the graph fixes the size. multiple: heights and widths are multiples of this. plans: those of the
    bundle for this graph.
    """

    onnx: bytes
    tensors: tuple[TensorSpec, ...] = ()
    precision: Precision = "fp32"
    source: str = "the graph"
    largest: tuple[int, int] | None = None
    multiple: int = 1
    plans: tuple[StoredPlan, ...] = ()


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the settings that one engine has and others have not; each engine's file defines its own."""


def _quiet(words: str, share: float | None) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine runs.

    threads: CPU threads inside one call; None lets the engine take every core it may use. batch_size: images
    in one call at most; an engine that is compiled for shapes is compiled for it. None means what a tuning
    found here (engine `auto`), or DEFAULT_BATCH_SIZE. settings: the engine's own settings as text, by name, such as {"spinning": "true"}.
    on_progress: told what happens during a long load: words, and the share done in 0..1 or None.
    """

    threads: int | None = None
    batch_size: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    on_progress: Callable[[str, float | None], None] = _quiet

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("batch size", self.batch_size)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, not {value}")


Settings = TypeVar("Settings", bound=EngineSettings)


def settings_from_text(kind: type[Settings], values: Mapping[str, str], *, engine: str) -> Settings:
    """Return an engine's settings from text values.

    Raises:
        InputError: a name the engine does not have, or a value of another type.
    """
    fields = [f.name for f in msgspec.structs.fields(kind)]
    if unknown := [name for name in values if name not in fields]:
        known = f"it has {', '.join(fields)}" if fields else "it has none"
        raise InputError(f"engine {engine!r} has no setting {unknown[0]!r}; {known}")
    try:
        return msgspec.convert(dict(values), kind, strict=False)
    except msgspec.ValidationError as e:
        raise InputError(f"a setting of engine {engine!r} does not fit: {e}") from e


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What really ran: engine and its version, device, and the precision of its arithmetic."""

    name: str
    version: str
    device: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.device} {self.precision}"


class Engine(Protocol):
    """A loaded graph that answers arrays with arrays.

    A Protocol, not a base class: engines share this shape, ours also `Described`, and a program may pass
    its own. Implementations are final and not thread-safe: one call at a time.
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


class Described(Closing):
    """Base of our engines: what the three properties of `Engine` return, set once at the end of loading."""

    _info: EngineInfo
    _inputs: tuple[TensorSpec, ...]
    _outputs: tuple[TensorSpec, ...]

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in the graph's order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in the graph's order."""
        return self._outputs


class DeviceTimer(Protocol):
    """What an engine whose entry has `needs_gpu` can do besides: time the device alone."""

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Run the graph `repeats` times on arrays that lie on the device; return each run's seconds.

        Measured by CUDA events on the engine's stream, after one run that is not counted; no copies.
        """
        ...


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
            expected = size if wanted == UNKNOWN else expected
            fits = fits and size == expected and size > 0
        if not fits:
            raise InputError(f"the graph takes {spec}; received {array.dtype} {array.shape}")


def with_symbols(
    real: Sequence[TensorSpec], promised: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """Give the dynamic dimensions of loaded tensors the symbols that the manifest gives them."""
    by_name = {spec.name: spec.shape for spec in promised if spec.shape}
    return tuple(
        msgspec.structs.replace(spec, shape=_merged(spec.shape, by_name.get(spec.name, ())))
        for spec in real
    )


def _merged(real: tuple[int | str, ...], promised: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if len(real) != len(promised):
        return real
    pairs = zip(real, promised, strict=True)
    return tuple(p if r == UNKNOWN and isinstance(p, str) else r for r, p in pairs)


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
