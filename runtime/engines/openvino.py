"""OpenVINO on the CPU."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal, final

import numpy as np

from dlcv.runtime.bundle.schema import DType, Precision, TensorSpec
from dlcv.runtime.engines.base import (
    UNKNOWN,
    Arrays,
    EngineBase,
    EngineInfo,
    EngineModel,
    EngineOptions,
    EngineSettings,
    check_feeds,
    settings_from_text,
    with_symbols,
)
from dlcv.runtime.errors import (
    BundleError,
    EngineError,
    EngineUnavailableError,
    InputError,
    OutputError,
)
from dlcv.runtime.machine.cache import CacheKey, lookup, store
from dlcv.runtime.machine.system import cpu_count, lacks_vnni

_DTYPES: dict[str, DType] = {
    "u8": "uint8",
    "u16": "uint16",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "f32": "float32",
}
_PRECISIONS: dict[str, Precision] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVinoSettings(EngineSettings, frozen=True):
    """Settings of engine `openvino`.

    mode: OpenVINO's performance hint. latency: one batch uses all threads. throughput: a batch is cut into
    parts that run in parallel, each on threads of its own. precision: of the arithmetic where the graph leaves
    it open; f16 and bf16 lower it. cache: keep the compiled graph for the next start.
    """

    mode: Literal["latency", "throughput"] = "latency"
    precision: Literal["f32", "f16", "bf16"] = "f32"
    cache: bool = True


@final
class OpenVinoEngine(EngineBase):
    """Runs a graph with OpenVINO's CPU plugin."""

    def __init__(self, model: EngineModel, options: EngineOptions) -> None:
        own = settings_from_text(OpenVinoSettings, options.settings, engine="openvino")
        if model.precision == "int8" and not model.narrow and lacks_vnni():
            raise EngineUnavailableError(
                "this CPU has no VNNI, without which sums in OpenVINO's int8 kernels overflow on this graph and answers "
                "are wrong; make one for CPUs with dlcv-export precision --to int8, or use --precision fp32 or --engine ort"
            )
        config = {
            "PERFORMANCE_HINT": own.mode.upper(),
            "INFERENCE_PRECISION_HINT": own.precision,  # the default is bf16 where the CPU supports it
            "INFERENCE_NUM_THREADS": str(options.threads or cpu_count()),
        }
        core = _core()
        compiled = (
            _compiled_or_cached(core, model, config, options=options)
            if own.cache
            else _compiled(core, model, config)
        )
        names = {spec.name for spec in model.tensors}
        inputs = [_spec_from_port(port, names) for port in compiled.inputs]
        outputs = [_spec_from_port(port, names) for port in compiled.outputs]
        self._inputs = with_symbols(inputs, model.tensors)
        self._outputs = with_symbols(outputs, model.tensors)
        parts = 1
        if own.mode == "throughput" and _has_batch_everywhere(self._inputs + self._outputs):
            parts = compiled.get_property("NUM_STREAMS")
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(parts)]
        self._info = EngineInfo(
            name="openvino",
            version=_version(),
            device="cpu",
            precision=_realised_precision(compiled, model.precision, asked=own.precision),
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `Engine.infer`."""
        check_feeds(self._inputs, feeds)
        if not self._requests:
            raise EngineError("the engine is closed; load the bundle again")
        try:
            if len(self._requests) == 1:
                # Without share_outputs the arrays are copies, owned by the caller.
                results = self._requests[0].infer(dict(feeds), share_inputs=True)
                return {spec.name: results[number] for number, spec in enumerate(self._outputs)}
            return self._infer_in_parts(feeds)
        except RuntimeError as e:
            raise EngineError(f"OpenVINO failed: {_reason(e)}") from e

    def close(self) -> None:
        """Free the compiled model."""
        self._requests = []

    def _infer_in_parts(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        batch = len(next(iter(feeds.values())))
        bounds = np.linspace(0, batch, min(batch, len(self._requests)) + 1).astype(int).tolist()
        running = self._requests[: len(bounds) - 1]
        for request, start, stop in zip(running, bounds, bounds[1:], strict=False):
            part = {name: array[start:stop] for name, array in feeds.items()}
            request.start_async(part, share_inputs=True)
        for request in running:
            request.wait()
        return {
            spec.name: np.concatenate([r.get_output_tensor(number).data for r in running])
            for number, spec in enumerate(self._outputs)
        }


@cache
def _core() -> Any:
    """Return the OpenVINO core, one for the whole process.

    OpenVINO gives the thread that creates it a signal stack. If another thread frees the core, the memory is
    freed but the stack stays set, and the next signal to the first thread, such as Ctrl-C, would crash the
    process.
    """
    import openvino

    return openvino.Core()


def _compiled(core: Any, model: EngineModel, config: dict[str, str]) -> Any:
    try:
        graph = core.read_model(model.onnx)
        if model.precision == "int8":
            _fold_reshaped_constants(graph)
        return core.compile_model(graph, "CPU", config)
    except RuntimeError as e:
        raise BundleError(f"OpenVINO cannot load the graph: {_reason(e)}") from e


def _fold_reshaped_constants(graph: Any) -> None:
    """Replace each Reshape of a constant by its result.

    OpenVINO 2026.4 reads a convolution's bias as such a Reshape. In an int8 graph whose Resize takes computed sizes (a Concat), it stays one
    until the int8 transformations, which then lose the bias: of the segmenter camvid-lraspp, .11 of the pixels were right.
    """
    from openvino import opset13

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Reshape":
            continue
        constant, shape = node.input_value(0).get_node(), node.output(0).get_partial_shape()
        if constant.get_type_name() != "Constant" or not shape.is_static:
            continue
        folded = opset13.constant(constant.data.reshape(tuple(shape.to_shape())))
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(folded.output(0))


def _compiled_or_cached(
    core: Any, model: EngineModel, config: dict[str, str], *, options: EngineOptions
) -> Any:
    """Return the compiled graph from the cache, or compile and store it.

    OpenVINO's own cache (CACHE_DIR) accepts a file with a wrong byte and then answers wrongly; dlcv's cache
    checks SHA-256.
    """
    key = CacheKey(
        kind="openvino",
        subject=hashlib.sha256(model.onnx).hexdigest(),
        fields={
            **config,
            **({"constants": "folded"} if model.precision == "int8" else {}),
            "engine": f"openvino {_version()}",
            "device": core.get_property("CPU", "FULL_DEVICE_NAME"),
            "capabilities": " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
            "system": f"{platform.system()} {platform.machine()}",
        },
    )
    found = lookup(key)
    if found.data is not None:
        with suppress(RuntimeError):  # OpenVINO refuses files of another build
            return core.import_model(found.data, "CPU", config)
    elif found.damaged:
        options.on_progress(f"compiling: {found.reason}", None)
    compiled = _compiled(core, model, config)
    with suppress(OutputError):  # an unwritable cache must not stop the run
        store(key, compiled.export_model().getvalue())
    return compiled


def _version() -> str:
    import openvino

    version: str = openvino.__version__
    return version.split("-", maxsplit=1)[0]


def _realised_precision(compiled: Any, graph: Precision, *, asked: str) -> Precision:
    """Return the lower of the graph's precision and the arithmetic precision that the plugin reports.

    Raises:
        InputError: a lower precision was asked for, and this CPU does not have it.
    """
    real: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if real != asked:
        raise InputError(
            f"OpenVINO computes in {real} on this CPU, which has no {asked}; leave out -E precision={asked}"
        )
    return _PRECISIONS[real] if graph == "fp32" else graph


def _has_batch_everywhere(specs: tuple[TensorSpec, ...]) -> bool:
    """Return whether the first dimension of every tensor is the batch, so that batches can be split."""
    return all(spec.shape[:1] == ("batch",) for spec in specs)


def _spec_from_port(port: Any, names: set[str]) -> TensorSpec:
    """Return the spec of an input or output. `names` are the expected names.

    OpenVINO drops the symbols of an ONNX graph: a dynamic dimension becomes "?". Where it removed a node, such
    as a Cast to the type that it computes in, the tensor has the names of both sides.
    """
    name = min(port.get_names() & names, default=port.get_any_name())
    kind = port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        raise BundleError(f"tensor {name!r} has type {kind}, which dlcv does not use")
    shape = tuple(UNKNOWN if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
    return TensorSpec(name=name, dtype=_DTYPES[kind], shape=shape)


def _reason(error: RuntimeError) -> str:
    """Return the informative line of an OpenVINO message."""
    text = str(error)
    if unsupported := re.search(r"No conversion rule found for operations: (.+)", text):
        return f"it has no operator {unsupported[1].strip()}"
    return text.strip().splitlines()[-1]
