"""The engines `trt` and `trt-rtx`: load a plan, describe it, run it, free it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import (
    UNKNOWN,
    Arrays,
    EngineBase,
    EngineInfo,
    EngineModel,
    EngineOptions,
    UInt8,
    check_feeds,
    settings_from_text,
    with_symbols,
)
from dlcv.runtime.engines.cuda_device import CudaDevice
from dlcv.runtime.engines.tensorrt.api import (
    TENSORRT,
    TENSORRT_RTX,
    Flavour,
    PlanSettings,
    TensorRtSettings,
    dtype_from_tensorrt,
    load_api,
    new_logger,
    newest_error,
    require_gpu,
    started,
)
from dlcv.runtime.engines.tensorrt.build import BuildRequest, plan_from_graph
from dlcv.runtime.engines.tensorrt.compatibility import name_of_gpu, plan_fields
from dlcv.runtime.engines.tensorrt.execution_contexts import Contexts
from dlcv.runtime.engines.tensorrt.inspector import realised_precision, shares_from_inspector
from dlcv.runtime.engines.tensorrt.optimization_profile import profile_for
from dlcv.runtime.engines.tensorrt.plans import loaded_engine
from dlcv.runtime.engines.tensorrt.runner import SETS_OF_BUFFERS, Runner, Tensors
from dlcv.runtime.errors import BundleError, EngineError
from dlcv.runtime.machine.gpu import Gpu, driver

if TYPE_CHECKING:
    import numpy as np


def build_request(
    flavour: Flavour, model: EngineModel, options: EngineOptions, *, gpu: Gpu | None
) -> BuildRequest:
    """Return the build request for a model and options.

    gpu: the GPU that will run the plan; None is allowed only where plans are portable.

    Raises:
        InputError: a setting does not fit.
    """
    settings = settings_from_text(flavour.settings, options.settings, engine=flavour.name)
    profile = profile_for(model, batch=settings.profile, batch_size=options.batch_size)
    version = str(load_api(flavour).__version__)
    return BuildRequest(
        flavour=flavour,
        model=model,
        settings=settings,
        profile=profile,
        fields=plan_fields(
            flavour, version, model=model, settings=settings, profile=profile, gpu=gpu
        ),
        on_progress=options.on_progress,
    )


@dataclass(kw_only=True)
class _Loaded:
    """The objects that live from load to close."""

    device: CudaDevice
    contexts: Contexts
    runner: Runner


class _PlanEngine(EngineBase):
    """Base class of both engines; they differ in `flavour`. The precision is read back by the inspector."""

    flavour: ClassVar[Flavour]

    def __init__(self, model: EngineModel, options: EngineOptions) -> None:
        settings = settings_from_text(
            self.flavour.settings, options.settings, engine=self.flavour.name
        )
        gpu = require_gpu(driver(), settings.device, flavour=self.flavour)
        request = build_request(self.flavour, model, options, gpu=gpu)
        trt = load_api(self.flavour)
        device = CudaDevice(settings.device, say=lambda words: options.on_progress(words, None))
        try:
            self._load(trt, request, device=device, gpu=gpu)
        except BaseException as e:
            device.close()
            traceback.clear_frames(e.__traceback__)  # as in `plan_from_graph`
            raise

    def _load(self, trt: Any, request: BuildRequest, *, device: CudaDevice, gpu: Gpu) -> None:
        logger = new_logger(trt)
        runtime = started(trt.Runtime, logger, flavour=self.flavour)
        if _holds_code(request.settings):
            runtime.engine_host_code_allowed = True
        engine = loaded_engine(
            request,
            gpu=gpu,
            build=lambda: plan_from_graph(request).data,
            deserialize=runtime.deserialize_cuda_engine,
            why=lambda: newest_error(logger),
        )
        tensors = tensors_of_engine(trt, engine, request.model)
        contexts = Contexts(trt, engine, device, request=request, gpu=gpu, logger=logger)
        runner = Runner(
            contexts.new_context,
            device,
            tensors=tensors,
            graphs=request.settings.cuda_graphs and self.flavour.times_kernels,
            logger=logger,
            say=lambda words: request.on_progress(words, None),
        )
        self._inputs, self._outputs = tensors.inputs, tensors.results
        self._loaded: _Loaded | None = _Loaded(device=device, contexts=contexts, runner=runner)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        self._info = EngineInfo(
            name=self.flavour.name,
            version=request.fields["version"],
            device=name_of_gpu(gpu),
            precision=realised_precision(
                request.model.precision, shares_from_inspector(text), source=request.model.source
            ),
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`. Batches larger than the profile are split.

        Raises:
            InputError: a size is outside the profile.
        """
        check_feeds(self.inputs, feeds)
        return self._open().runner.run(feeds)

    @property
    def batches_in_flight(self) -> int:
        """How many runs may be started before the first is finished; see `Engine.batches_in_flight`."""
        return SETS_OF_BUFFERS

    def host_memory(self, size: int) -> UInt8:
        """Return page-locked bytes; see `Engine.host_memory`."""
        return self._open().runner.host_memory(size)

    def start(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], Arrays]:
        """Start a run; see `Engine.start`. Raises as `infer`."""
        check_feeds(self.inputs, feeds)
        return self._open().runner.start(feeds)

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time the device alone; see `DeviceTimer.device_seconds`.

        Raises:
            InputError: the batch is larger than the profile.
        """
        check_feeds(self.inputs, feeds)
        return self._open().runner.device_seconds(feeds, repeats=repeats)

    def close(self) -> None:
        """Free the engine, its buffers and streams. TensorRT-RTX's runtime cache is stored first."""
        if (loaded := self._loaded) is None:
            return
        self._loaded = None
        loaded.device.use()
        loaded.contexts.keep_compiled()
        loaded.runner.close()
        loaded.contexts.close()
        loaded.device.close()

    def _open(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("the engine is closed; load the bundle again")
        return self._loaded


@final
class TensorRtEngine(_PlanEngine):
    """Runs a graph with TensorRT 11 on an NVIDIA GPU."""

    flavour = TENSORRT


@final
class TensorRtRtxEngine(_PlanEngine):
    """Runs a graph with TensorRT-RTX on an NVIDIA GPU."""

    flavour = TENSORRT_RTX


def tensors_of_engine(trt: Any, engine: Any, model: EngineModel) -> Tensors:
    """Return the inputs, outputs and shapes of a loaded engine. int32 outputs are narrowed where the model has uint16.

    Raises:
        BundleError: a tensor has a dtype that dlcv does not use.
    """
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    specs = [_spec_from_engine(trt, engine, name) for name in names]
    fed = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
    shapes = {name: engine.get_tensor_profile_shape(name, 0) for name in names if name in fed}
    wide = {spec.name for spec in specs if spec.dtype == "int32" and spec.name not in fed}
    return Tensors(
        inputs=with_symbols([spec for spec in specs if spec.name in fed], model.tensors),
        outputs=with_symbols([spec for spec in specs if spec.name not in fed], model.tensors),
        least={name: tuple(least) for name, (least, _, _) in shapes.items()},
        most={name: tuple(most) for name, (_, _, most) in shapes.items()},
        narrowed=frozenset(s.name for s in model.tensors if s.dtype == "uint16" and s.name in wide),
    )


def _spec_from_engine(trt: Any, engine: Any, name: str) -> TensorSpec:
    """Return the spec of an engine tensor. Built engines drop symbols: a dynamic dimension becomes "?"."""
    dtype = dtype_from_tensorrt(trt, engine.get_tensor_dtype(name))
    if dtype is None:
        raise BundleError(f"tensor {name!r} has a type that dlcv does not use")
    shape = tuple(UNKNOWN if size < 0 else int(size) for size in engine.get_tensor_shape(name))
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _holds_code(settings: PlanSettings) -> bool:
    return isinstance(settings, TensorRtSettings) and settings.version_compatible
