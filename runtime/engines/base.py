"""The `Engine` protocol, what engines load and how they run, and the input checks that they share."""

from __future__ import annotations

from abc import abstractmethod
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
LARGE_IMAGE = 320 * 320
"""Pixels above which a CPU takes one image at a time: batches cost much memory and are hardly faster."""
UNKNOWN = "?"  # a dynamic dimension without a symbol

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"
UInt8: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """A compiled engine stored in a bundle.

    read: returns its bytes, verified against the manifest.
    """

    plan: Plan
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """The model that an engine loads.

    onnx: the serialised graph, cut to the wanted outputs. tensors: its inputs and outputs as in the manifest,
    with symbols, because some engines lose those. precision: of the arithmetic. narrow: its int8 weights lie in -64..64, so
    that sums do not overflow on a CPU without VNNI. source: where the model comes from, for messages. largest: (height, width) of the largest images to expect; None if the graph fixes the
    size. multiple: heights and widths are multiples of this. plans: the bundle's compiled engines for this
    graph.
    """

    onnx: bytes
    tensors: tuple[TensorSpec, ...] = ()
    precision: Precision = "fp32"
    narrow: bool = False
    source: str = "the graph"
    largest: tuple[int, int] | None = None
    multiple: int = 1
    plans: tuple[StoredPlan, ...] = ()


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of the settings of a single engine. Each engine's file defines its own."""


def _quiet(words: str, share: float | None) -> None:
    """Ignore progress."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine runs.

    threads: CPU threads per call; None lets the engine use every core available to it. batch_size: most images
    per call; engines that are compiled for shapes are compiled for it. None means the value of this machine's
    tuning (engine `auto`), or DEFAULT_BATCH_SIZE. settings: the engine's own settings as text, by name, such as
    {"spinning": "true"}. on_progress: called during a long load with words, and the share done in 0..1 or None.
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
    """A loaded graph that maps input arrays to output arrays.

    A Protocol, not a base class, so that a program may pass an engine of its own. dlcv's engines also derive
    from `EngineBase`. Implementations are final and not thread-safe: one call at a time.
    """

    @property
    def info(self) -> EngineInfo:
        """The engine, version, device and precision that run."""
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

        The arrays returned are the caller's: no later call overwrites them, and they share no memory with `feeds`.

        Raises:
            EngineError: the engine failed on valid arrays.
        """
        ...

    @property
    def batches_in_flight(self) -> int:
        """How many runs may be started before the first is finished: 1, or 2 where copies overlap with computing."""
        ...

    def host_memory(self, size: int) -> UInt8:
        """Return `size` bytes to fill with inputs: page-locked where a device copies from them. `close` frees them."""
        ...

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Start a run, and return the function that waits for it and gives its arrays; finish them in order.

        feeds: as of `infer`; they must not change before the run is finished.

        Raises:
            EngineError: as `infer`; so does the function returned.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory and threads. Further calls of `infer` are errors."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class EngineBase(Closing):
    """Base of engines: the properties of `Engine`, set once at the end of loading, and runs that compute at once."""

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

    @property
    def batches_in_flight(self) -> int:
        """How many runs may be started before the first is finished; see `Engine.batches_in_flight`."""
        return 1

    @abstractmethod
    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`."""

    def host_memory(self, size: int) -> UInt8:
        """Return `size` bytes to fill with inputs; see `Engine.host_memory`."""
        import numpy as np

        return np.empty(size, np.uint8)

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Run the graph, and return the function that gives its arrays; see `Engine.start`."""
        arrays = self.infer(feeds)
        return lambda: arrays


class DeviceTimer(Protocol):
    """An optional ability of engines whose entry has `needs_gpu`: measure device time alone."""

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Run the graph `repeats` times on arrays on the device; return the seconds of each run.

        Measured by CUDA events on the engine's stream, after one warm-up run that is not counted. Copies are
        excluded.
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
    """Return tensor specs whose dynamic dimensions have the manifest's symbols."""
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
    """Check that a loaded graph has the tensors that the manifest lists.

    outputs: names of the loaded outputs; None means all.

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
