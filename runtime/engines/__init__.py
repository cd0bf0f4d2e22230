"""The registry of engines: a dict from name to class, imported on use.

Other packages add an engine by an entry point of the group `dlcv.engines`: see `added`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.onnx_protobuf import model_with_outputs
from dlcv.runtime.bundle.schema import Precision, Target, precision_of
from dlcv.runtime.bundle.variants import is_narrow
from dlcv.runtime.engines.added import AddedEngine, added_entry, added_names, added_versions
from dlcv.runtime.engines.base import (
    Engine,
    EngineInfo,
    EngineModel,
    EngineOptions,
    StoredPlan,
    check_specs,
)
from dlcv.runtime.engines.entry import EngineEntry
from dlcv.runtime.engines.tuned import Row, stored_tuning, tuning_key
from dlcv.runtime.errors import BundleError, EngineUnavailableError
from dlcv.runtime.machine.gpu import driver
from dlcv.runtime.machine.system import cpu_count, installed_version, is_importable

__all__ = [
    "ENGINES",
    "Choice",
    "Engine",
    "EngineEntry",
    "EngineInfo",
    "EngineModel",
    "EngineOptions",
    "choose",
    "engine_entry",
    "engine_model",
    "engine_names",
    "engine_versions",
    "load_engine",
    "why_unavailable",
]


_CUDA_13 = (13, 0)  # the CUDA version of the current ONNX Runtime and TensorRT wheels

ENGINES: dict[str, EngineEntry] = {
    "ort": EngineEntry(
        summary="ONNX Runtime, CPU",
        factory="dlcv.runtime.engines.ort:OrtEngine",
        modules=("onnxruntime",),
        install="pip install 'dlcv[cpu]'",
        variations=({}, {"spinning": "true"}),
        like_plain={"spinning": "true"},
    ),
    "cuda": EngineEntry(
        summary="ONNX Runtime, CUDA provider",
        factory="dlcv.runtime.engines.cuda:CudaEngine",
        modules=("onnxruntime", "cuda.bindings"),
        distribution="onnxruntime-gpu",
        install="pip uninstall -y onnxruntime && pip install 'dlcv[gpu]'",
        needs_gpu=True,
        cuda=_CUDA_13,
        target="tensorrt",
        variations=({}, {"cuda_graphs": "true"}),
    ),
    "trt": EngineEntry(
        summary="TensorRT 11, native",
        factory="dlcv.runtime.engines.tensorrt:TensorRtEngine",
        modules=("tensorrt", "cuda.bindings"),
        install="pip install 'dlcv[trt]'",
        needs_gpu=True,
        cuda=_CUDA_13,
        target="tensorrt",
    ),
    "trt-rtx": EngineEntry(
        summary="TensorRT-RTX",
        factory="dlcv.runtime.engines.tensorrt:TensorRtRtxEngine",
        modules=("tensorrt_rtx", "cuda.bindings"),
        install="pip install 'dlcv[rtx]'",
        needs_gpu=True,
        cuda=_CUDA_13,
        target="tensorrt",
    ),
    "openvino": EngineEntry(
        summary="OpenVINO, CPU",
        factory="dlcv.runtime.engines.openvino:OpenVinoEngine",
        modules=("openvino",),
        install="pip install 'dlcv[openvino]'",
        variations=({}, {"mode": "throughput"}),
    ),
}
_AUTO_ORDER = ("trt", "trt-rtx", "cuda", "openvino", "ort")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine, precision and options to run with."""

    engine: str
    precision: Precision
    options: EngineOptions


def choose(
    bundle: Bundle, name: str, *, precision: Precision | None, options: EngineOptions
) -> Choice:
    """Choose the engine, precision and options where the caller left them open.

    `auto` takes the best result of this machine's tuning within what the caller fixed; without a tuning, the
    first available engine of dlcv's own. A named engine runs with the given options and its own defaults.
    """
    if name == "auto" and (row := _tuned(bundle, precision=precision, options=options)):
        tuned = replace(
            options,
            threads=options.threads if row.threads in (None, cpu_count()) else row.threads,
            batch_size=options.batch_size or row.batch,
            settings=row.settings,
        )
        return Choice(engine=row.engine, precision=row.precision, options=tuned)
    if name == "auto":
        name = next((n for n in _AUTO_ORDER if why_unavailable(n) is None), "ort")
    chosen = precision or bundle.graph().default_precision
    return Choice(engine=name, precision=chosen, options=options)


def _tuned(bundle: Bundle, *, precision: Precision | None, options: EngineOptions) -> Row | None:
    if not tuning_key(bundle, {}).path.parent.is_dir():  # never tuned: skip the look-up of versions
        return None
    tuning, reason = stored_tuning(tuning_key(bundle, engine_versions()))
    if reason:
        options.on_progress(
            f"the tuning is not used, because {reason}; run dlcv-infer tune {bundle.path}", None
        )
    if tuning is None:
        return None
    row = tuning.best(precision, options)
    return row if row and why_unavailable(row.engine) is None else None


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines: dlcv's own, then those that other packages add. None is imported."""
    return (*ENGINES, *(name for name in added_names() if name not in (*ENGINES, "auto")))


def engine_entry(name: str) -> EngineEntry:
    """Return the entry of an engine, dlcv's own or another package's. A name of dlcv's own stays dlcv's.

    Raises:
        EngineUnavailableError: unknown, or the package that adds it does not do.
    """
    names = engine_names() if name not in ENGINES else ()
    entry = added_entry(name) if name in names else ENGINES.get(name)
    if entry is None:
        raise EngineUnavailableError(f"unknown engine {name!r}; there are auto, {', '.join(names)}")
    return entry


def engine_versions() -> dict[str, str]:
    """Return the versions of the engines' packages, and the GPUs: what timings depend on."""
    names = dict.fromkeys(e.distribution or e.modules[0] for e in ENGINES.values())
    versions = {name: version for name in names if (version := installed_version(name))}
    added = added_versions()
    versions |= added
    if added or any(e.needs_gpu and all(map(is_importable, e.modules)) for e in ENGINES.values()):
        versions["gpus"] = ", ".join(map(str, driver().gpus)) or "none"
    return versions


def load_engine(
    bundle: Bundle,
    name: str = "auto",
    *,
    graph: str | None = None,
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    options: EngineOptions | None = None,
    largest: tuple[int, int] | None = None,
) -> Engine:
    """Load a graph of a bundle on an engine, and check its tensors against the manifest.

    graph: None means the one that takes images. outputs: names of the wanted outputs, None means all; nodes
    that only other outputs need are removed. largest: (height, width) of the largest images that a graph of
    dynamic size will get; None means the manifest's size. An engine asked for by name runs or raises.

    Raises:
        EngineUnavailableError: unknown, not installed, or not able to start here.
        EngineError: an engine of another package failed while it loaded.
        BundleError: the bundle lacks the graph or precision, or the graph is not what it says.
        InputError: an option does not fit the engine.
    """
    options = options or EngineOptions()
    choice = choose(bundle, name, precision=precision, options=options)
    if reason := why_unavailable(choice.engine):
        raise EngineUnavailableError(reason)
    model = engine_model(
        bundle,
        graph=graph,
        precision=choice.precision,
        outputs=outputs,
        largest=largest,
        target=engine_entry(choice.engine).target,
    )
    engine = _started(choice, model)
    try:
        check_specs(bundle.graph(graph), engine, source=model.source, outputs=outputs)
    except BundleError:
        engine.close()
        raise
    return engine


def _started(choice: Choice, model: EngineModel) -> Engine:
    entry = engine_entry(choice.engine)
    if choice.engine not in ENGINES:
        return AddedEngine(entry, model, options=choice.options, name=choice.engine)
    return entry.engine_class()(model, choice.options)


def engine_model(
    bundle: Bundle,
    *,
    graph: str | None = None,
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    largest: tuple[int, int] | None = None,
    target: Target = "cpu",
) -> EngineModel:
    """Return the model that an engine loads from a bundle. Arguments are those of `load_engine`.

    target: of the engine's entry.

    Raises:
        BundleError: the bundle lacks the graph, the precision or an output.
    """
    name = bundle.variant_name(precision, graph=graph, target=target)
    variant = bundle.graph(graph).variants[name]
    model = bundle.read(variant.file)
    if outputs is not None:
        _require_outputs(bundle, graph, outputs)
        model = model_with_outputs(model, outputs)
    sha256 = hashlib.sha256(model).hexdigest()
    image = bundle.graph(graph).inputs[0]
    dynamic = image.name == "image" and isinstance(image.shape[1], str)
    preprocessing = bundle.manifest.preprocessing
    return EngineModel(
        onnx=model,
        tensors=bundle.graph(graph).inputs + bundle.graph(graph).outputs,
        precision=precision_of(name),
        narrow=is_narrow(name),
        source=f"{bundle.path}: {variant.file}",
        largest=(largest or preprocessing.size) if dynamic else None,
        multiple=preprocessing.multiple,
        plans=tuple(
            StoredPlan(plan=plan, read=partial(bundle.read, plan.file))
            for plan in variant.plans
            if plan.graph_sha256 == sha256
        ),
    )


def _require_outputs(bundle: Bundle, graph: str | None, outputs: Collection[str]) -> None:
    existing = [spec.name for spec in bundle.graph(graph).outputs]
    for name in outputs:
        if name not in existing:
            raise BundleError(
                f"bundle {bundle.manifest.name!r} ({bundle.manifest.task}) has no output {name!r}, "
                f"only {', '.join(existing)}; give another bundle with -m"
            )


def why_unavailable(name: str) -> str | None:
    """Return None if an engine can be loaded here, otherwise one sentence that says why not, with the fix."""
    try:
        entry = engine_entry(name)
    except EngineUnavailableError as e:
        return str(e)
    if "onnxruntime" in entry.modules and all(
        installed_version(d) for d in ("onnxruntime", "onnxruntime-gpu")
    ):
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of dlcv[cpu], dlcv[gpu]"
        )
    missing = not all(map(is_importable, entry.modules))
    if missing or (entry.distribution and not installed_version(entry.distribution)):
        return f"engine {name!r} ({entry.summary}) is not installed; get it with {entry.install}"
    if entry.needs_gpu and (fault := driver().why_unfit(entry.cuda)):
        return f"engine {name!r} ({entry.summary}) needs an NVIDIA GPU: {fault}"
    return None
