"""Runs a loaded engine: splits batches, overlaps copies, replays CUDA graphs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.engines.cuda_device import (
    Bytes,
    Device,
    Handle,
    OutOfDeviceMemoryError,
)
from dlcv.runtime.engines.tensorrt.api import newest_error
from dlcv.runtime.engines.tensorrt.cuda_graphs import RecordedGraphs
from dlcv.runtime.engines.tensorrt.optimization_profile import Shape, require_in_profile
from dlcv.runtime.errors import EngineError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The specs of a loaded engine, and the smallest and largest shape of each input.

    The largest output shapes follow from the largest inputs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    least: Mapping[str, Shape]
    most: Mapping[str, Shape]

    @property
    def most_items(self) -> int:
        """The largest batch."""
        return next(iter(self.most.values()))[0]


@dataclass(kw_only=True)
class _Buffers:
    """One set of buffers for the largest shapes: device addresses, and pinned host memory."""

    number: int
    addresses: dict[str, int]
    pinned: dict[str, Bytes]
    uploaded: Handle
    computed: Handle
    downloaded: Handle
    pending: tuple[int, int, Mapping[str, Shape]] | None = None


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
    ) -> None:
        """Make one execution context and keep it.

        new_context: returns a context; called once, and once more per recorded graph. graphs: record launches
        as CUDA graphs. logger: from `new_logger`.
        """
        self._context: Any = new_context()
        self._device = device
        self._tensors = tensors
        self._logger = logger
        self._graphs = RecordedGraphs(new_context, device, enabled=graphs)
        self._warm_up_runs = 3 if graphs else 1  # the third run of a shape is a graph's
        self._buffers: list[_Buffers] = []
        self._up, self._compute, self._down = (device.new_stream() for _ in range(3))

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run a batch of any size in parts that fit the profile. The caller owns the returned arrays.

        Raises:
            InputError: a size is outside of what the engine was built for.
            EngineError: CUDA or TensorRT failed, or memory does not do.
        """
        self._device.use()
        count = len(next(iter(feeds.values())))
        parts = self._parts(count)
        for start, end in parts:
            self._check(feeds, items=end - start)
        results: Arrays = {}
        try:
            for number, (start, end) in enumerate(parts):
                buffers = self._free_buffers(number % 2, results)
                self._start(buffers, feeds, start=start, end=end, count=count, results=results)
            for buffers in self._in_order():
                self._collect(buffers, results)
        except OutOfDeviceMemoryError as e:
            raise EngineError(
                f"{e} for batches of {min(count, self._tensors.most_items)}; give a smaller --batch"
            ) from e
        finally:
            self._forget_pending()
        return results

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time runs on arrays on the device; see `DeviceTimer`. The batch must fit without splitting."""
        self._device.use()
        count = len(next(iter(feeds.values())))
        self._check(feeds, items=count)
        buffers = self._free_buffers(0, {})
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

    def _start(
        self,
        buffers: _Buffers,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        *,
        start: int,
        end: int,
        count: int,
        results: Arrays,
    ) -> None:
        """Queue one part on the three streams, without waiting."""
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
            if spec.name not in results:
                results[spec.name] = _empty(spec, (count, *outputs[spec.name][1:]))
        self._device.record(buffers.downloaded, stream=self._down)
        buffers.pending = (start, end, outputs)

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
            pinned = buffers.pinned[spec.name][: part.nbytes]
            pinned.view(part.dtype).reshape(part.shape)[...] = part
            self._device.upload(buffers.addresses[spec.name], pinned, stream=self._up)
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

    def _free_buffers(self, number: int, results: Arrays) -> _Buffers:
        """Return a set of buffers that no copy uses, after collecting its previous results."""
        if number == len(self._buffers):
            self._buffers.append(self._new_buffers(number))
        buffers = self._buffers[number]
        self._collect(buffers, results)
        return buffers

    def _new_buffers(self, number: int) -> _Buffers:
        most = self._tensors.most
        shapes = {**most, **self._output_shapes(self._context, most)}
        specs = (*self._tensors.inputs, *self._tensors.outputs)
        sizes = {spec.name: _size(spec, shapes[spec.name]) for spec in specs}
        return _Buffers(
            number=number,
            addresses={name: self._device.allocate(size) for name, size in sizes.items()},
            pinned={name: self._device.allocate_pinned(size) for name, size in sizes.items()},
            uploaded=self._device.new_event(),
            computed=self._device.new_event(),
            downloaded=self._device.new_event(),
        )

    def _collect(self, buffers: _Buffers, results: Arrays) -> None:
        """Wait for a part's outputs, and copy them to the caller's arrays."""
        if buffers.pending is None:
            return
        start, end, shapes = buffers.pending
        buffers.pending = None
        self._device.wait(buffers.downloaded)
        for spec in self._tensors.outputs:
            size, target = _size(spec, shapes[spec.name]), results[spec.name]
            pinned = buffers.pinned[spec.name][:size].view(target.dtype)
            target[start:end] = pinned.reshape(shapes[spec.name])

    def _in_order(self) -> Sequence[_Buffers]:
        pending = [b for b in self._buffers if b.pending is not None]
        return sorted(pending, key=lambda b: b.pending or (0, 0, {}))

    def _forget_pending(self) -> None:
        """After an error, drop the results of other parts and wait until nothing writes to them."""
        for buffers in self._buffers:
            if buffers.pending is not None:
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
