"""The parts of CUDA that engines need: memory, streams, events and graphs."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from dlcv.runtime.errors import EngineError, EngineUnavailableError

if TYPE_CHECKING:
    import numpy as np

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Handle: TypeAlias = Any  # a CUDA stream, event or graph


class OutOfDeviceMemoryError(EngineError):
    """The device has too little free memory."""


class Device(Protocol):
    """A GPU. A Protocol, so that the order of operations can be tested without one.

    Copies and launches return immediately and run in the order of their stream. Each method raises EngineError
    if CUDA fails, and OutOfDeviceMemoryError if memory runs out.
    """

    def use(self) -> None:
        """Make this GPU the thread's current one."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the device and return the address. `close` frees them."""
        ...

    def allocate_pinned(self, size: int) -> Bytes:
        """Return `size` bytes of page-locked host memory. `close` frees them; do not use the array after it.

        Where the system has none left to lock, as in WSL, it is ordinary memory, from which copies are slower.
        """
        ...

    def all_or_nothing(self) -> AbstractContextManager[None]:
        """Free what is allocated in the block, if the block fails."""
        ...

    def new_stream(self) -> Handle:
        """Return a stream that does not synchronise with the default stream."""
        ...

    def stream_number(self, stream: Handle) -> int:
        """Return the stream as the integer that TensorRT takes."""
        ...

    def new_event(self) -> Handle:
        """Return an event that records time."""
        ...

    def upload(self, address: int, source: Bytes, *, stream: Handle) -> None:
        """Start to copy host bytes to the device. Do not change them until the stream has finished the copy."""
        ...

    def download(self, target: Bytes, address: int, *, stream: Handle) -> None:
        """Start to copy device memory to host bytes. They are valid once the stream has finished the copy."""
        ...

    def record(self, event: Handle, *, stream: Handle) -> None:
        """Record an event at the current end of a stream."""
        ...

    def make_wait(self, stream: Handle, *, event: Handle) -> None:
        """Make a stream wait for an event."""
        ...

    def wait(self, event: Handle) -> None:
        """Block until an event has been reached."""
        ...

    def seconds_between(self, start: Handle, end: Handle) -> float:
        """Return the time between two events that have been reached."""
        ...

    def captured(self, work: Callable[[], None], *, stream: Handle) -> Handle | None:
        """Capture what `work` launches on a stream as a graph, without running it. Return None if that fails."""
        ...

    def launch(self, graph: Handle, *, stream: Handle) -> None:
        """Run a recorded graph."""
        ...

    def free_graph(self, graph: Handle) -> None:
        """Free a recorded graph."""
        ...

    def close(self) -> None:
        """Wait for all work, and free all memory, streams and events."""
        ...


def is_within(array: np.ndarray[Any, Any], memory: Sequence[Bytes]) -> bool:
    """Return whether an array lies as one block in one of some pieces of host memory, such as page-locked ones."""
    if not array.flags.c_contiguous:
        return False
    start = array.ctypes.data
    return any(
        piece.ctypes.data <= start and start + array.nbytes <= piece.ctypes.data + piece.nbytes
        for piece in memory
    )


@final
class CudaDevice:
    """A GPU, through `cuda.bindings.runtime`."""

    def __init__(self, number: int, *, say: Callable[[str], None] = lambda _: None) -> None:
        """Use a GPU. say: told, once, what is slower than it should be."""
        self._say = say
        self._is_pageable = False
        self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        self._frees: list[tuple[Callable[..., Any], Any]] = []
        self._streams: list[Handle] = []
        self._number = number
        self.use()

    def use(self) -> None:
        """See `Device.use`."""
        self._call(self._cuda.cudaSetDevice, self._number)

    def allocate(self, size: int) -> int:
        """See `Device.allocate`."""
        address: int = self._call(self._cuda.cudaMalloc, size)
        self._frees.append((self._cuda.cudaFree, address))
        return address

    def allocate_pinned(self, size: int) -> Bytes:
        """See `Device.allocate_pinned`."""
        import numpy as np

        try:
            address = self._call(self._cuda.cudaHostAlloc, size, self._cuda.cudaHostAllocDefault)
        except EngineError as e:
            if not self._is_pageable:
                self._is_pageable = True
                self._say(
                    f"copies to the GPU are slower, because no memory can be page-locked ({e})"
                )
            return np.empty(size, np.uint8)
        self._frees.append((self._cuda.cudaFreeHost, address))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """See `Device.all_or_nothing`."""
        before = len(self._frees)
        try:
            yield
        except BaseException:
            self._free_down_to(before)
            raise

    def new_stream(self) -> Handle:
        """See `Device.new_stream`."""
        flags = self._cuda.cudaStreamNonBlocking
        stream = self._call(self._cuda.cudaStreamCreateWithFlags, flags)
        self._frees.append((self._cuda.cudaStreamDestroy, stream))
        self._streams.append(stream)
        return stream

    def stream_number(self, stream: Handle) -> int:
        """See `Device.stream_number`."""
        return native_handle(stream)

    def new_event(self) -> Handle:
        """See `Device.new_event`."""
        # Whoever waits for it sleeps, and does not keep a core busy that could decode.
        event = self._call(self._cuda.cudaEventCreateWithFlags, self._cuda.cudaEventBlockingSync)
        self._frees.append((self._cuda.cudaEventDestroy, event))
        return event

    def upload(self, address: int, source: Bytes, *, stream: Handle) -> None:
        """See `Device.upload`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        size = source.nbytes
        self._call(self._cuda.cudaMemcpyAsync, address, source.ctypes.data, size, kind, stream)

    def download(self, target: Bytes, address: int, *, stream: Handle) -> None:
        """See `Device.download`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        size = target.nbytes
        self._call(self._cuda.cudaMemcpyAsync, target.ctypes.data, address, size, kind, stream)

    def record(self, event: Handle, *, stream: Handle) -> None:
        """See `Device.record`."""
        self._call(self._cuda.cudaEventRecord, event, stream)

    def make_wait(self, stream: Handle, *, event: Handle) -> None:
        """See `Device.make_wait`."""
        self._call(self._cuda.cudaStreamWaitEvent, stream, event, 0)

    def wait(self, event: Handle) -> None:
        """See `Device.wait`."""
        self._call(self._cuda.cudaEventSynchronize, event)

    def seconds_between(self, start: Handle, end: Handle) -> float:
        """See `Device.seconds_between`."""
        milliseconds: float = self._call(self._cuda.cudaEventElapsedTime, start, end)
        return milliseconds / 1000

    def captured(self, work: Callable[[], None], *, stream: Handle) -> Handle | None:
        """See `Device.captured`."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._cuda.cudaStreamBeginCapture, stream, mode)
        try:
            work()
        except BaseException as e:
            self._cuda.cudaStreamEndCapture(stream)
            self._cuda.cudaGetLastError()  # a failed capture must not fail the next call
            if isinstance(e, EngineError):
                return None
            raise  # Ctrl-C: the stream must not stay in capture
        status, graph = self._cuda.cudaStreamEndCapture(stream)
        if status != self._cuda.cudaError_t.cudaSuccess:
            self._cuda.cudaGetLastError()
            return None
        try:
            return self._call(self._cuda.cudaGraphInstantiate, graph, 0)
        except EngineError:  # its kernels run without a graph as well
            return None
        finally:
            self._call(self._cuda.cudaGraphDestroy, graph)

    def launch(self, graph: Handle, *, stream: Handle) -> None:
        """See `Device.launch`."""
        self._call(self._cuda.cudaGraphLaunch, graph, stream)

    def free_graph(self, graph: Handle) -> None:
        """See `Device.free_graph`."""
        self._call(self._cuda.cudaGraphExecDestroy, graph)

    def close(self) -> None:
        """See `Device.close`."""
        for stream in self._streams:
            self._cuda.cudaStreamSynchronize(stream)
        self._free_down_to(0)
        self._streams.clear()

    def _free_down_to(self, count: int) -> None:
        """Free what was made last, until so many are left."""
        while len(self._frees) > count:
            free, handle = self._frees.pop()
            free(handle)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a CUDA function, check its status, and return its other results."""
        status, *values = function(*arguments)
        if status == self._cuda.cudaError_t.cudaSuccess:
            return values[0] if values else None
        self._cuda.cudaGetLastError()
        raise error_from_status(self._cuda, status)


def native_handle(stream: Handle) -> int:
    """Return the integer of a CUDA stream of cuda-python; 12.x has no function for it."""
    utils: Any = importlib.import_module("cuda.bindings.utils")
    convert: Callable[[Handle], int] = getattr(utils, "get_cuda_native_handle", int)
    return convert(stream)


def error_from_status(cuda: Any, status: Any) -> EngineError | EngineUnavailableError:
    """Return the dlcv error for a CUDA status. `cuda` is the module `cuda.bindings.runtime`."""
    words = cuda.cudaGetErrorString(status)[1].decode()
    codes = cuda.cudaError_t
    if status == codes.cudaErrorMemoryAllocation:
        return OutOfDeviceMemoryError(f"the GPU's memory does not do ({words})")
    if status == codes.cudaErrorInsufficientDriver:
        return EngineUnavailableError(
            f"driver too old: CUDA says {words!r}; one for CUDA 13.0 is needed, update the driver"
        )
    if status == codes.cudaErrorNoDevice:
        return EngineUnavailableError(f"no GPU can be used ({words}); see nvidia-smi")
    return EngineError(f"CUDA failed ({status.name}): {words}")
