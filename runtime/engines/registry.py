"""The registry of engines: a dict from name to class, imported on use.

Other packages add an engine by an entry point of the group `dlcv.engines`: see `added`.
"""

from __future__ import annotations

from dlcv.runtime.engines.added import added_entry, added_names, added_versions
from dlcv.runtime.engines.entry import EngineEntry
from dlcv.runtime.errors import EngineUnavailableError
from dlcv.runtime.machine.gpu import driver
from dlcv.runtime.machine.system import installed_version, is_importable

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
        keeps_state=True,
        # Without cuda_graphs, until a run on a GPU shows that memory does not grow: they are kept per thread and never released.
        variations=({}, {"prefer_nhwc": "true"}),
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
        lower_arithmetic=({"precision": "bf16"},),
    ),
}


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
