"""Reports what works on this machine and what is missing: versions, GPU, engines, cache, bundles that are ready."""

from __future__ import annotations

import sys

import dlcv
from dlcv.runtime.bundle import BUILTIN, open_bundle
from dlcv.runtime.bundle.ready import ready_folder, ready_names
from dlcv.runtime.bundle.report import table
from dlcv.runtime.engines import engine_entry, engine_names, why_unavailable
from dlcv.runtime.errors import BundleError, EngineUnavailableError
from dlcv.runtime.machine.cache import cache_folder
from dlcv.runtime.machine.gpu import driver
from dlcv.runtime.machine.system import installed_version, machine_name

_PACKAGES = (
    *("numpy", "pillow", "msgspec", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("tensorrt-rtx", "cuda-python", "pyarrow", "fsspec", "tokenizers"),
)


def doctor_lines() -> list[str]:
    """Return lines on versions, the machine, GPUs, the cache, the engines and the bundles that are ready."""
    versions = ((name, installed_version(name)) for name in _PACKAGES)
    facts = [
        ("dlcv", f"{dlcv.__version__}, Python {sys.version.split()[0]}"),
        ("machine", machine_name()),
        ("installed", ", ".join(f"{name} {version}" for name, version in versions if version)),
        ("ONNX Runtime", _providers()),
        ("NVIDIA", _gpus()),
        ("cache", _cache()),
    ]
    engines = [(name, *_summary_and_state(name)) for name in engine_names()]
    return [
        *table(facts),
        "",
        *table([("engine", "", "state"), *engines]),
        "",
        *table([("bundle", "state"), *_bundle_states()]),
    ]


def builtin_trouble() -> bool:
    """Return whether a bundle that ships with dlcv or the default engine does not work here."""
    broken = [name for name, state in _bundle_states() if state != "ready" and ready_folder(name)]
    return why_unavailable("ort") is not None or bool(broken)


def _providers() -> str:
    if reason := why_unavailable("ort"):
        return reason
    import onnxruntime

    return f"providers {', '.join(onnxruntime.get_available_providers())}"


def _gpus() -> str:
    found = driver()
    if found.fault or found.cuda is None:
        return str(found.fault)
    gpus = "; ".join(f"{gpu.index} is {gpu}" for gpu in found.gpus)
    return f"driver for CUDA {'.'.join(map(str, found.cuda))}; GPU {gpus}"


def _cache() -> str:
    folder = cache_folder()
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{folder}, {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB (derived; it may be deleted)"


def _summary_and_state(name: str) -> tuple[str, str]:
    try:
        entry = engine_entry(name)
    except EngineUnavailableError as e:  # of another package
        return "", str(e)
    reason = why_unavailable(name)
    if reason is None:
        return entry.summary, "ready"
    reason = reason.removeprefix(f"engine {name!r} ({entry.summary}) ")  # the table's other columns
    if entry.needs_gpu and driver().why_unfit(entry.cuda) and "NVIDIA" not in reason:
        least = ".".join(map(str, entry.cuda))
        reason += f"; it also needs an NVIDIA GPU with a driver for CUDA {least}"
    return entry.summary, reason


def _bundle_states() -> list[tuple[str, str]]:
    states = []
    for name in sorted({*BUILTIN.values(), *ready_names()}):
        try:
            open_bundle(name)
            states.append((name, "ready"))
        except BundleError as e:
            states.append((name, str(e)))
    return states
