"""Execution contexts of a loaded engine, and the runtime cache of TensorRT-RTX."""

from __future__ import annotations

from typing import Any, final

from dlcv.runtime.engines.cuda_device import Device, OutOfDeviceMemoryError
from dlcv.runtime.engines.tensorrt.api import newest_error
from dlcv.runtime.engines.tensorrt.build import BuildRequest
from dlcv.runtime.engines.tensorrt.plans import plan_key
from dlcv.runtime.errors import EngineError, OutputError
from dlcv.runtime.machine.cache import CacheKey, lookup, store
from dlcv.runtime.machine.gpu import Gpu


@final
class Contexts:
    """Creates the execution contexts of one engine.

    TensorRT's contexts share one piece of working memory, because they run one after the other. TensorRT-RTX
    needs only one context; its runtime cache stores the kernels that it compiles for this GPU.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        device: Device,
        *,
        request: BuildRequest,
        gpu: Gpu,
        logger: Any,
    ) -> None:
        self._trt = trt
        self._engine: Any = engine
        self._device = device
        self._request = request
        self._logger = logger
        self._memory: int | None = None
        self._compiled: Any = None
        self._found = b""
        fields = {**request.fields, "gpu": str(gpu)}
        subject = plan_key(request).subject
        self._key = CacheKey(kind="runtime", subject=subject, fields=fields)

    def new_context(self) -> Any:
        """Return a new context.

        Raises:
            EngineError: the device's memory does not do, or TensorRT refuses.
        """
        shared = self._request.flavour.times_kernels
        try:
            context = self._shared_context() if shared else self._compiling_context()
        except OutOfDeviceMemoryError as e:
            raise self._unprepared(str(e)) from e
        if context is None:
            raise self._unprepared(newest_error(self._logger))
        return context

    def keep_compiled(self) -> None:
        """Store the runtime cache if it has grown."""
        if self._compiled is None:
            return
        data = bytes(self._compiled.serialize())
        if data == self._found:
            return
        try:
            store(self._key, data)
        except OutputError:  # an unwritable cache must not stop the run
            return

    def close(self) -> None:
        """Release the engine. All contexts must be released before."""
        self._engine = self._compiled = None

    def _unprepared(self, reason: str) -> EngineError:
        batch = self._request.profile.ranges["batch"].most
        return EngineError(
            f"{self._request.flavour.words} cannot prepare batches of {batch}: {reason}; "
            "give a smaller --batch, or free some of the GPU's memory"
        )

    def _shared_context(self) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        size = self._engine.device_memory_size_v2
        if context is None or not size:
            return context
        if self._memory is None:
            self._memory = self._device.allocate(size)
        context.set_device_memory(self._memory, size)
        return context

    def _compiling_context(self) -> Any:
        runtime_config = self._engine.create_runtime_config()
        self._compiled = runtime_config.create_runtime_cache()
        self._found = lookup(self._key).data or b""
        if self._found:
            self._compiled.deserialize(self._found)  # an unfit cache is ignored
        runtime_config.set_runtime_cache(self._compiled)
        if self._request.settings.cuda_graphs:
            runtime_config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(runtime_config)
