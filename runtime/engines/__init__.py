"""The engines: one visible dict from name to class, imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.engines.base import Engine, EngineInfo, EngineOptions, check_specs
from dlcv.runtime.errors import BundleError, EngineUnavailableError
from dlcv.runtime.manifest import Precision
from dlcv.runtime.onnx_wire import model_with_outputs
from dlcv.runtime.system import installed_version, is_importable

__all__ = ["ENGINES", "Engine", "EngineInfo", "EngineOptions", "load_engine", "why_unavailable"]


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """Where an engine's class is, and what it needs.

    factory: "module:Class"; None while this version of dlcv has no such engine.
    module: what must be importable. install: the command that installs it.
    """

    summary: str
    factory: str | None
    module: str
    install: str


ENGINES: dict[str, EngineEntry] = {
    "ort": EngineEntry(
        summary="ONNX Runtime, CPU",
        factory="dlcv.runtime.engines.ort:OrtEngine",
        module="onnxruntime",
        install="pip install 'dlcv[cpu]'",
    ),
    "cuda": EngineEntry(
        summary="ONNX Runtime, CUDA provider",
        factory=None,
        module="onnxruntime",
        install="pip install --upgrade 'dlcv[gpu]'",
    ),
    "trt": EngineEntry(
        summary="TensorRT 11, native",
        factory=None,
        module="tensorrt",
        install="pip install --upgrade 'dlcv[trt]'",
    ),
    "trt-rtx": EngineEntry(
        summary="TensorRT-RTX",
        factory=None,
        module="tensorrt_rtx",
        install="pip install --upgrade 'dlcv[rtx]'",
    ),
    "openvino": EngineEntry(
        summary="OpenVINO, CPU",
        factory=None,
        module="openvino",
        install="pip install --upgrade 'dlcv[openvino]'",
    ),
}
_AUTO_ORDER = ("trt", "trt-rtx", "cuda", "openvino", "ort")


def load_engine(
    bundle: Bundle,
    name: str = "auto",
    *,
    graph: str = "model",
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    options: EngineOptions | None = None,
) -> Engine:
    """Load a graph of a bundle on an engine, and check its tensors against the manifest.

    outputs: names of the wanted outputs; what only others need is cut away and not computed. None
    means all. `auto` takes the first engine that is available here. An engine asked for by name runs or raises.

    Raises:
        EngineUnavailableError: unknown, not installed, or not able to start here.
        BundleError: the bundle lacks the graph or precision, or the graph is not what it says.
    """
    if name == "auto":
        name = next((n for n in _AUTO_ORDER if why_unavailable(n) is None), "ort")
    if reason := why_unavailable(name):
        raise EngineUnavailableError(reason)
    entry = ENGINES[name]
    precision = precision or bundle.graph(graph).default_precision
    variant = bundle.variant(precision, graph=graph)
    model = bundle.read(variant.file)
    if outputs is not None:
        _require_outputs(bundle, graph, outputs)
        model = model_with_outputs(model, outputs)
    module_name, _, class_name = str(entry.factory).partition(":")
    engine_class = getattr(importlib.import_module(module_name), class_name)
    engine: Engine = engine_class(model, precision=precision, options=options or EngineOptions())
    source = f"{bundle.path}: {variant.file}"
    check_specs(bundle.graph(graph), engine, source=source, outputs=outputs)
    return engine


def _require_outputs(bundle: Bundle, graph: str, outputs: Collection[str]) -> None:
    existing = [spec.name for spec in bundle.graph(graph).outputs]
    for name in outputs:
        if name not in existing:
            raise BundleError(
                f"bundle {bundle.manifest.name!r} ({bundle.manifest.task}) has no output {name!r}, "
                f"only {', '.join(existing)}; give another bundle with -m"
            )


def why_unavailable(name: str) -> str | None:
    """Return None when an engine can be loaded here, or else one sentence with the fix."""
    entry = ENGINES.get(name)
    if entry is None:
        return f"unknown engine {name!r}; there are auto, {', '.join(ENGINES)}"
    if entry.factory is None:
        return (
            f"engine {name!r} ({entry.summary}) is not installed: this dlcv ships without it; get it "
            f"with a later release ({entry.install}), or use --engine ort"
        )
    if name == "ort" and installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of dlcv[cpu], dlcv[gpu]"
        )
    if not is_importable(entry.module):
        return f"engine {name!r} ({entry.summary}) is not installed; get it with {entry.install}"
    return None
