"""An ONNX Runtime session on device buffers: IO binding, page-locked memory and CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from dlcv.runtime.engines.cuda_device import is_within
from dlcv.runtime.errors import EngineError

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import TensorSpec
    from dlcv.runtime.engines.base import Arrays
    from dlcv.runtime.engines.cuda_device import Bytes, Device

SETS_OF_BUFFERS = 2  # of each shape: while one computes, the other is copied
_MOST_SETS = 16  # of the full batch, the last batch, and a few image sizes

_Key: TypeAlias = "tuple[tuple[tuple[int, ...], ...], int]"


class _Run:
    """A run that was started. outputs: of the caller, when it is finished."""

    outputs: Arrays


@final
class BoundSession:
    """Runs a session on one stream, with one set of buffers for each of the most recent shapes.

    The provider is only a name here, so that tests can run this on the CPU provider.

    session: made with the number of `stream` as its `user_compute_stream`. specs: inputs, outputs. place: ONNX
    Runtime's name for the location of `new_memory`, such as ("cuda", 0). new_memory: returns a device that owns
    the memory of one set of buffers. graphs: the session captures CUDA graphs.
    """

    def __init__(
        self,
        session: Any,
        *,
        specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
        place: tuple[str, int],
        device: Device,
        stream: Any,
        new_memory: Callable[[], Device],
        graphs: bool = False,
    ) -> None:
        self._session = session
        self._inputs, self._outputs = specs
        self._place = place
        self._device, self._stream = device, stream
        self._up, self._down = device.new_stream(), device.new_stream()
        self._start, self._end = device.new_event(), device.new_event()
        self._new_memory = new_memory
        self._graphs = graphs
        self._last_graph = 0
        self._buffers: OrderedDict[_Key, _Buffers] = OrderedDict()
        self._lent: list[Bytes] = []

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Copy to the device, run, copy back. The arrays returned are the caller's."""
        return self.start(feeds)()

    def host_memory(self, size: int) -> Bytes:
        """Return page-locked bytes; inputs that lie in them are copied to the device from where they are."""
        self._device.use()
        self._lent.append(self._device.allocate_pinned(size))
        return self._lent[-1]

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Begin what `run` does, and return the function that waits for it.

        Copies have streams of their own, so that those of one run overlap with the computing of another.
        """
        buffers = self._ready_buffers(feeds)
        self._launch(buffers)
        self._device.record(buffers.computed, stream=self._stream)
        self._device.make_wait(self._down, event=buffers.computed)
        buffers.download(self._down)
        self._device.record(buffers.downloaded, stream=self._down)
        run = buffers.run = _Run()
        return partial(self._finish, buffers, run)

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time the graph alone; see `DeviceTimer`."""
        buffers = self._ready_buffers(feeds)
        self._launch(buffers)
        seconds = []
        for _ in range(repeats):
            self._device.record(self._start, stream=self._stream)
            self._launch(buffers)
            self._device.record(self._end, stream=self._stream)
            self._device.wait(self._end)
            seconds.append(self._device.seconds_between(self._start, self._end))
        return seconds

    def close(self) -> None:
        """Free all buffers; the session must not run after it."""
        while self._buffers:
            self._drop_oldest()

    def _finish(self, buffers: _Buffers, run: _Run) -> Arrays:
        """Wait for a run, unless that was done when its buffers were needed again."""
        if buffers.run is run:
            self._device.use()
            self._collect(buffers)
        return run.outputs

    def _collect(self, buffers: _Buffers) -> None:
        if (run := buffers.run) is None:
            return
        buffers.run = None
        self._device.wait(buffers.downloaded)
        run.outputs = {name: host.copy() for name, host in buffers.host_outputs.items()}

    def _ready_buffers(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> _Buffers:
        """Return the buffers of these shapes, with the inputs on their way to the device."""
        self._device.use()  # the thread may be another than last time
        buffers = self._buffers_of(feeds)
        buffers.upload(feeds, stream=self._up, lent=self._lent)
        self._device.record(buffers.uploaded, stream=self._up)
        self._device.make_wait(self._stream, event=buffers.uploaded)
        return buffers

    def _buffers_of(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> _Buffers:
        """Return a set of buffers of these shapes that is free: the first, or while that is used the second."""
        shapes = tuple(feeds[spec.name].shape for spec in self._inputs)
        keys = [(shapes, number) for number in range(SETS_OF_BUFFERS)]
        key = next((k for k in keys if k not in self._buffers or not self._buffers[k].run), keys[0])
        if key not in self._buffers:
            if len(self._buffers) >= _MOST_SETS:
                self._drop_oldest()
            self._buffers[key] = self._new_buffers(feeds)
        self._buffers.move_to_end(key)
        self._collect(self._buffers[key])
        return self._buffers[key]

    def _launch(self, buffers: _Buffers) -> None:
        self._session.run_with_iobinding(buffers.binding, buffers.options)

    def _drop_oldest(self) -> None:
        _, buffers = self._buffers.popitem(last=False)
        self._collect(buffers)
        if buffers.graph:
            self._session.release_captured_graph(buffers.graph)
        buffers.close()

    def _new_buffers(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> _Buffers:
        if self._graphs:
            self._last_graph += 1
        buffers = _Buffers(
            self._session, memory=self._new_memory(), device=self._device, graph=self._last_graph
        )
        try:
            for spec in self._inputs:
                buffers.bind_input(spec, feeds[spec.name].shape, place=self._place)
            for spec, shape in zip(self._outputs, self._output_shapes(feeds), strict=True):
                buffers.bind_output(spec, shape, place=self._place)
        except EngineError:
            buffers.close()
            raise
        return buffers

    def _output_shapes(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[tuple[int, ...]]:
        """Return the outputs' shapes from the symbols of the inputs; where those do not suffice, from a run."""
        sizes: dict[int | str, int] = {}
        for spec in self._inputs:
            sizes |= zip(spec.shape, feeds[spec.name].shape, strict=True)
        known = [[sizes.get(d, d) for d in spec.shape] for spec in self._outputs]
        if all(isinstance(d, int) for shape in known for d in shape):
            return [tuple(map(int, shape)) for shape in known]
        binding = self._session.io_binding()
        for spec in self._inputs:
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(feeds[spec.name]))
        for spec in self._outputs:
            binding.bind_output(spec.name)
        self._session.run_with_iobinding(binding, _run_options(graph=-1))
        return [tuple(value.shape()) for value in binding.get_outputs()]


class _Buffers:
    """Device memory and page-locked host memory for one set of shapes, bound to the session."""

    def __init__(self, session: Any, *, memory: Device, device: Device, graph: int) -> None:
        self.run: _Run | None = None  # that uses them
        self.uploaded, self.computed, self.downloaded = (device.new_event() for _ in range(3))
        self.binding = session.io_binding()
        self.options = _run_options(graph=graph)
        self.graph = graph
        self.host_outputs: Arrays = {}
        self._host_inputs: Arrays = {}
        self._memory = memory
        self._addresses: dict[str, int] = {}

    def bind_input(
        self, spec: TensorSpec, shape: tuple[int, ...], *, place: tuple[str, int]
    ) -> None:
        """Allocate and bind memory for an input."""
        dtype = np.dtype(spec.dtype)
        self._host_inputs[spec.name] = self._allocate(spec.name, dtype, shape)
        self.binding.bind_input(spec.name, *place, dtype, shape, self._addresses[spec.name])

    def bind_output(
        self, spec: TensorSpec, shape: tuple[int, ...], *, place: tuple[str, int]
    ) -> None:
        """Allocate and bind memory for an output."""
        dtype = np.dtype(spec.dtype)
        self.host_outputs[spec.name] = self._allocate(spec.name, dtype, shape)
        self.binding.bind_output(spec.name, *place, dtype, shape, self._addresses[spec.name])

    def upload(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, stream: Any, lent: Sequence[Bytes]
    ) -> None:
        """Start to copy the inputs to the device, from `lent` memory without a copy before."""
        for name, host in self._host_inputs.items():
            source = feeds[name]
            if not is_within(source, lent):
                np.copyto(host, source)
                source = host
            self._memory.upload(self._addresses[name], _bytes(source), stream=stream)

    def download(self, stream: Any) -> None:
        """Start to copy the outputs to `host_outputs`."""
        for name, host in self.host_outputs.items():
            self._memory.download(_bytes(host), self._addresses[name], stream=stream)

    def close(self) -> None:
        """Free the memory. The binding is freed first, because it holds addresses."""
        del self.binding
        self.host_outputs, self._host_inputs = {}, {}
        with suppress(EngineError):
            self._memory.close()

    def _allocate(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        size = dtype.itemsize * int(np.prod(shape))
        self._addresses[name] = self._memory.allocate(size)
        return self._memory.allocate_pinned(size).view(dtype).reshape(shape)


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return array.reshape(-1).view(np.uint8)


def _run_options(*, graph: int) -> Any:
    """Return run options. graph: number of the CUDA graph to capture or replay; -1 for none."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    # All work is on one stream, so one wait at the end is enough.
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(graph or -1))
    return options
