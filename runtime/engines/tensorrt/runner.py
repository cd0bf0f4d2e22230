"""Runs a loaded engine: splits batches, overlaps copies, replays CUDA graphs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import msgspec

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.engines.cuda_device import (
    Bytes,
    Device,
    Handle,
    OutOfDeviceMemoryError,
    is_within,
)
from dlcv.runtime.engines.tensorrt.api import newest_error
from dlcv.runtime.engines.tensorrt.cuda_graphs import RecordedGraphs
from dlcv.runtime.engines.tensorrt.optimization_profile import Shape, require_in_profile
from dlcv.runtime.errors import EngineError

if TYPE_CHECKING:
    import numpy as np


SETS_OF_BUFFERS = 2  # parts under way at a time: one computes while others are copied


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The specs of a loaded engine, and the smallest and largest shape of each input.

    The largest output shapes follow from the largest inputs. narrowed: the int32 outputs that the caller gets as
    uint16.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    least: Mapping[str, Shape]
    most: Mapping[str, Shape]
    narrowed: frozenset[str] = frozenset()

    @property
    def results(self) -> tuple[TensorSpec, ...]:
        """The outputs as the caller gets them."""
        return tuple(
            msgspec.structs.replace(spec, dtype="uint16") if spec.name in self.narrowed else spec
            for spec in self.outputs
        )

    @property
    def most_items(self) -> int:
        """The largest batch."""
        return next(iter(self.most.values()))[0]


@dataclass(kw_only=True, eq=False)
class _Run:
    """One call: how many items it has, and the outputs of the parts that are collected."""

    count: int
    results: Arrays = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of a run that is under way. number: of all parts, in the order in which they were started."""

    run: _Run
    number: int
    start: int
    end: int
    outputs: Mapping[str, Shape]


@dataclass(kw_only=True)
class _Buffers:
    """One set of buffers, large enough for every shape: addresses on the device, pinned bytes on the host."""

    number: int
    addresses: dict[str, int]
    pinned: dict[str, Bytes]
    uploaded: Handle
    computed: Handle
    downloaded: Handle
    pending: _Part | None = None


@final
class Runner:
    """Runs a loaded engine on a device. Two sets of buffers let copies overlap with computation."""

    def __init__(
        self,
        new_context: Callable[[], Any],
        device: Device,
        *,
        tensors: Tensors,
        graphs: bool,
        logger: Any,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make one execution context and keep it.

        new_context: returns a context; called once, and once more per recorded graph. graphs: record launches
        as CUDA graphs. logger: from `new_logger`. say: told, once, why launches are not recorded any more.
        """
        self._context: Any = new_context()
        self._device = device
        self._tensors = tensors
        self._logger = logger
        self._graphs = RecordedGraphs(new_context, device, enabled=graphs, say=say)
        self._warm_up_runs = 3 if graphs else 1  # the third run of a shape is a graph's
        self._buffers: list[_Buffers] = []
        self._lent: list[Bytes] = []
        self._parts_started = 0
        self._up, self._compute, self._down = (device.new_stream() for _ in range(3))

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run a batch of any size in parts that fit the profile. The caller owns the returned arrays.

        Raises:
            InputError: a size is outside of what the engine was built for.
            EngineError: CUDA or TensorRT failed, or memory does not do.
        """
        return self.start(feeds)()

    def host_memory(self, size: int) -> Bytes:
        """Return page-locked bytes; inputs that lie in them are copied to the device from where they are."""
        self._device.use()
        self._lent.append(self._device.allocate_pinned(size))
        return self._lent[-1]

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Send arrays of any batch to the device, and return the function that waits for their outputs.

        While there are free buffers nothing is waited for. Raises as `run`.
        """
        self._device.use()
        run = _Run(count=len(next(iter(feeds.values()))))
        parts = self._parts(run.count)
        for start, end in parts:
            self._check(feeds, items=end - start)
        try:
            for start, end in parts:
                self._start(self._free_buffers(), feeds, run=run, start=start, end=end)
        except BaseException as e:
            self._forget(run)
            if isinstance(e, OutOfDeviceMemoryError):
                size = min(run.count, self._tensors.most_items)
                raise EngineError(f"{e} for batches of {size}; give a smaller --batch") from e
            raise
        return partial(self._finish, run)

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time runs on arrays on the device; see `DeviceTimer`. The batch must fit without splitting."""
        self._device.use()
        count = len(next(iter(feeds.values())))
        self._check(feeds, items=count)
        buffers = self._free_buffers()
        shapes = {name: array.shape for name, array in feeds.items()}
        self._upload(buffers, feeds, start=0, end=count)
        self._device.make_wait(self._compute, event=buffers.uploaded)
        for _ in range(self._warm_up_runs):
            self._execute(buffers, shapes)
        start, end = self._device.new_event(), self._device.new_event()
        seconds = []
        for _ in range(repeats):
            self._device.record(start, stream=self._compute)
            self._execute(buffers, shapes)
            self._device.record(end, stream=self._compute)
            self._device.wait(end)
            seconds.append(self._device.seconds_between(start, end))
        return seconds

    def close(self) -> None:
        """Free graphs and contexts. The device frees the buffers."""
        self._graphs.close()
        self._buffers.clear()
        self._context = None

    def _parts(self, count: int) -> list[tuple[int, int]]:
        """Split a batch into as few and as equal parts as possible, so that no part is below the minimum."""
        number = math.ceil(count / self._tensors.most_items)
        cuts = [count * part // number for part in range(number + 1)]
        return list(itertools.pairwise(cuts))

    def _check(self, feeds: Mapping[str, np.ndarray[Any, Any]], *, items: int) -> None:
        for spec in self._tensors.inputs:
            shape = _part(spec, feeds[spec.name], 0, items).shape
            least, most = self._tensors.least[spec.name], self._tensors.most[spec.name]
            require_in_profile(spec, shape, least=least, most=most)

    def _finish(self, run: _Run) -> Arrays:
        """Wait for the outputs of a run."""
        self._device.use()
        try:
            for buffers in self._in_order():
                if buffers.pending is not None and buffers.pending.run is run:
                    self._collect(buffers)
        finally:
            self._forget(run)
        return run.results

    def _start(
        self,
        buffers: _Buffers,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        *,
        run: _Run,
        start: int,
        end: int,
    ) -> None:
        """Send one part through the three streams; nothing is waited for."""
        self._upload(buffers, feeds, start=start, end=end)
        self._device.make_wait(self._compute, event=buffers.uploaded)
        inputs = self._tensors.inputs
        shapes = {s.name: _part(s, feeds[s.name], start, end).shape for s in inputs}
        outputs = self._execute(buffers, shapes)
        self._device.record(buffers.computed, stream=self._compute)
        self._device.make_wait(self._down, event=buffers.computed)
        for spec in self._tensors.outputs:
            size = _size(spec, outputs[spec.name])
            pinned, address = buffers.pinned[spec.name][:size], buffers.addresses[spec.name]
            self._device.download(pinned, address, stream=self._down)
        for spec in self._tensors.results:
            if spec.name not in run.results:
                run.results[spec.name] = _empty(spec, (run.count, *outputs[spec.name][1:]))
        self._device.record(buffers.downloaded, stream=self._down)
        self._parts_started += 1
        buffers.pending = _Part(
            run=run, number=self._parts_started, start=start, end=end, outputs=outputs
        )

    def _upload(
        self,
        buffers: _Buffers,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        *,
        start: int,
        end: int,
    ) -> None:
        for spec in self._tensors.inputs:
            part = _part(spec, feeds[spec.name], start, end)
            if is_within(part, self._lent):
                source = part.reshape(-1).view("uint8")
            else:
                source = buffers.pinned[spec.name][: part.nbytes]
                source.view(part.dtype).reshape(part.shape)[...] = part
            self._device.upload(buffers.addresses[spec.name], source, stream=self._up)
        self._device.record(buffers.uploaded, stream=self._up)

    def _execute(self, buffers: _Buffers, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Launch the engine on buffers, by a recorded graph if there is one. Return the output shapes."""
        key = (buffers.number, tuple(shapes[spec.name] for spec in self._tensors.inputs))
        recorded = self._graphs.find(key)
        if recorded is not None:
            self._device.launch(recorded.graph, stream=self._compute)
            return recorded.outputs
        due = self._graphs.context_due(key)
        context = self._context if due is None else due
        for name, address in buffers.addresses.items():
            context.set_tensor_address(name, address)
        outputs = self._output_shapes(context, shapes)
        launch = partial(self._enqueue, context)
        launch()
        if due is not None:
            self._graphs.record(
                key, context=due, launch=launch, stream=self._compute, outputs=outputs
            )
        return outputs

    def _output_shapes(self, context: Any, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise EngineError(
                    f"TensorRT refuses {name!r} of shape {shape}: {newest_error(self._logger)}"
                )
        outputs = self._tensors.outputs
        return {spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in outputs}

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream_number(self._compute)):
            raise EngineError(f"TensorRT failed: {newest_error(self._logger)}")

    def _free_buffers(self) -> _Buffers:
        """Return a set of buffers that no copy uses; if all are used, after taking the results out of the oldest."""
        free = next((b for b in self._buffers if b.pending is None), None)
        if free is not None:
            return free
        if len(self._buffers) < SETS_OF_BUFFERS:
            self._buffers.append(self._new_buffers(len(self._buffers)))
            return self._buffers[-1]
        oldest = self._in_order()[0]
        self._collect(oldest)
        return oldest

    def _new_buffers(self, number: int) -> _Buffers:
        most = self._tensors.most
        shapes = {**most, **self._output_shapes(self._context, most)}
        specs = (*self._tensors.inputs, *self._tensors.outputs)
        sizes = {spec.name: _size(spec, shapes[spec.name]) for spec in specs}
        with self._device.all_or_nothing():
            return _Buffers(
                number=number,
                addresses={name: self._device.allocate(size) for name, size in sizes.items()},
                pinned={name: self._device.allocate_pinned(size) for name, size in sizes.items()},
                uploaded=self._device.new_event(),
                computed=self._device.new_event(),
                downloaded=self._device.new_event(),
            )

    def _collect(self, buffers: _Buffers) -> None:
        """Wait for a part's outputs, and copy them to where the caller gets them."""
        if (part := buffers.pending) is None:
            return
        buffers.pending = None
        self._device.wait(buffers.downloaded)
        for spec in self._tensors.outputs:
            shape, target = part.outputs[spec.name], part.run.results[spec.name]
            pinned = buffers.pinned[spec.name][: _size(spec, shape)].view(spec.dtype)
            target[part.start : part.end] = pinned.reshape(shape)

    def _in_order(self) -> Sequence[_Buffers]:
        """Return the sets of buffers in use, in the order in which their parts were started."""
        used = [(b.pending.number, b) for b in self._buffers if b.pending is not None]
        return [buffers for _, buffers in sorted(used, key=lambda pair: pair[0])]

    def _forget(self, run: _Run) -> None:
        """After an error, results of a run's other parts are nobody's; wait until nothing writes to them."""
        for buffers in self._buffers:
            if buffers.pending is not None and buffers.pending.run is run:
                buffers.pending = None
                self._device.wait(buffers.downloaded)


def _part(
    spec: TensorSpec, array: np.ndarray[Any, Any], start: int, end: int
) -> np.ndarray[Any, Any]:
    """Return a part of a batch. Inputs without a batch axis, such as prototypes, go whole to every part."""
    return array[start:end] if spec.shape[0] == "batch" else array


def _size(spec: TensorSpec, shape: Shape) -> int:
    import numpy as np

    return math.prod(shape) * np.dtype(spec.dtype).itemsize


def _empty(spec: TensorSpec, shape: Shape) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.empty(shape, spec.dtype)
