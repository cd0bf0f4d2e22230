"""From a source to a bundle: wrap, export, pass the parity gate, record golden cases, write."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dlcv.export.card import card_from_manifest
from dlcv.export.gate import Run, gate_batches, golden_batches, images_from, pass_gate, runs_from
from dlcv.export.graph import OPSET, ExportedGraph, graph_from_wrapper
from dlcv.export.reference import Reference
from dlcv.export.sources import ExportSource
from dlcv.export.wrappers import Normalize, Wrapper, wrap
from dlcv.export.wrappers.segmenter import segmentation_logits
from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.base import EngineModel, EngineOptions, check_specs
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import InputError, OutputError, ParityError
from dlcv.runtime.manifest import (
    FileEntry,
    Graph,
    Manifest,
    ParityReport,
    Provenance,
    Variant,
)
from dlcv.runtime.samples import sample_paths
from dlcv.runtime.system import installed_version

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
MODEL_FILE = "model.onnx"
CARD_FILE = "README.md"
_LIBRARIES = ("dlcv", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


def _silent(_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """How a bundle is written.

    name: in the manifest, instead of the source's. licence: instead of the source's text.
    images: files and folders for the parity gate; empty means the sample photos of dlcv.
    overwrite: replace a bundle that is there. progress: told what happens, a few words at a time.
    """

    name: str | None = None
    licence: str | None = None
    images: tuple[Path, ...] = ()
    overwrite: bool = False
    progress: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(NAME_PATTERN, self.name):
            raise InputError(
                f"a bundle's name has letters, digits, '.', '_' and '-' and at most 100 of them, "
                f"not {self.name!r}"
            )


def export_bundle(source: ExportSource, out: Path, options: BundleOptions | None = None) -> Bundle:
    """Export a source and return the bundle; it is written only if the parity gate passes.

    Golden cases are always made of the sample photos of dlcv, which anybody may pass on.

    Raises:
        InputError: the model cannot be wrapped, or the images do not do.
        OutputError: `out` exists, or cannot be written.
        ParityError: the graph does not give what the model gives.
    """
    options = options or BundleOptions()
    require_writable(out, overwrite=options.overwrite)
    options.progress("exporting the graph")
    wrapper = wrapper_from_source(source)
    graph = exported_graph(source, wrapper)
    options.progress("asking PyTorch for the answers")
    reference = Reference(source, wrapper)
    golden = _golden_runs(source, reference)
    runs = [*_gate_runs(source, reference, images=options.images), *golden]
    options.progress("comparing them with ONNX Runtime's")
    parity = prove(graph, runs, images=_words_for(options.images))
    files = {MODEL_FILE: graph.model, **_golden_files(golden)}
    manifest = _manifest(source, graph, options=options, parity=parity, golden=tuple(files)[1:])
    files[CARD_FILE] = card_from_manifest(manifest, source).encode()
    options.progress("writing the bundle")
    return save_bundle(out, _with_files(manifest, files), files=files, overwrite=options.overwrite)


def require_writable(out: Path, *, overwrite: bool) -> None:
    """Check before the work what `save_bundle` checks after it.

    Raises:
        OutputError: `out` exists and may not be replaced.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or give --overwrite")


def verify_bundle(
    path: Path, source: ExportSource, *, images: Sequence[Path] = (), engine: str = "auto"
) -> ParityReport:
    """Compare a bundle with the source that it was exported from, as the gate does.

    Raises:
        BundleError: the bundle is damaged.
        ParityError: it does not give what the source gives, or says something else about it.
    """
    bundle = open_bundle(path)
    _require_same_words(bundle.manifest, source)
    wrapper = wrapper_from_source(source)
    runs = _gate_runs(source, Reference(source, wrapper), images=images)
    with load_engine(bundle, engine) as loaded:
        return pass_gate(runs, loaded, reference=_pytorch(), images=_words_for(images))


def wrapper_from_source(source: ExportSource) -> Wrapper:
    """Return the wrapper around a source's model.

    Raises:
        InputError: no wrapper is made for it, it does not take images of the size, or its classes
            are not as many as the names.
    """
    _require_fit(source)
    normalize = Normalize(source.mean, source.std)
    return wrap(source.model, source.task, normalize=normalize, size=source.preprocessing.size)


def _require_fit(source: ExportSource) -> None:
    """Run the model once: size and classes are what users give, and mistake."""
    height, width = source.preprocessing.size
    try:
        with torch.inference_mode():
            logits = segmentation_logits(source.model, torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise InputError(
            f"the model does not take images of {height}x{width} ({reason}); give another --size"
        ) from e
    if logits.shape[1] != len(source.classes):
        raise InputError(
            f"the model has {logits.shape[1]} classes, {len(source.classes)} are named; "
            "give --classes FILE with one name a line for each"
        )


def exported_graph(source: ExportSource, wrapper: Wrapper) -> ExportedGraph:
    """Export the wrapper; height and width are dynamic for segmenters."""
    preprocessing = source.preprocessing
    multiple = preprocessing.multiple if _is_dynamic(source) else None
    return graph_from_wrapper(wrapper, preprocessing.size, multiple=multiple)


def prove(graph: ExportedGraph, runs: Sequence[Run], *, images: str) -> ParityReport:
    """Load a graph on ONNX Runtime, check its tensors, and pass the gate.

    Raises:
        BundleError: the graph does not load, or has other tensors than it says.
        ParityError: it does not give what the reference gives.
    """
    described = Graph(inputs=graph.inputs, outputs=graph.outputs, variants={})
    with OrtEngine(EngineModel(onnx=graph.model), EngineOptions()) as engine:
        check_specs(described, engine, source="the exported graph")
        return pass_gate(runs, engine, reference=_pytorch(), images=images)


def _gate_runs(source: ExportSource, reference: Reference, *, images: Sequence[Path]) -> list[Run]:
    paths = images_from(images) if images else sample_paths()
    dynamic = _is_dynamic(source)
    return runs_from(reference, gate_batches(paths, source.preprocessing, dynamic=dynamic))


def _golden_runs(source: ExportSource, reference: Reference) -> list[Run]:
    dynamic = _is_dynamic(source)
    batches = golden_batches(sample_paths(), source.preprocessing, dynamic=dynamic)
    return runs_from(reference, batches)


def _golden_files(runs: Sequence[Run]) -> dict[str, bytes]:
    """Return NPZ files with arrays `input.NAME` and `output.NAME`, compressed, by path."""
    files = {}
    for number, run in enumerate(runs, start=1):
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"input.image": run.batch.image}
        arrays |= {f"output.{name}": array for name, array in run.expected.items()}
        np.savez_compressed(buffer, **arrays)
        files[f"golden/case{number}.npz"] = buffer.getvalue()
    return files


def _manifest(
    source: ExportSource,
    graph: ExportedGraph,
    *,
    options: BundleOptions,
    parity: ParityReport,
    golden: tuple[str, ...],
) -> Manifest:
    variant = Variant(file=MODEL_FILE, opset=OPSET, parity=parity)
    described = Graph(inputs=graph.inputs, outputs=graph.outputs, variants={"fp32": variant})
    fields = {
        "schema_version": 1,
        "name": options.name or source.name,
        "task": source.task,
        "description": source.description,
        "licence": options.licence or source.licence,
        "classes": source.classes,
        "preprocessing": source.preprocessing,
        "graphs": {"model": described},
        "golden": golden,
        "metrics": source.metrics,
        "provenance": _provenance(source),
        "files": {name: FileEntry(sha256="0" * 64, size_bytes=0) for name in (MODEL_FILE, *golden)},
    }
    return msgspec.convert(msgspec.to_builtins(fields), Manifest)  # converting validates


def _with_files(manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    entries = {
        name: FileEntry(sha256="0" * 64, size_bytes=len(data)) for name, data in files.items()
    }
    return msgspec.structs.replace(manifest, files=entries)


def _provenance(source: ExportSource) -> Provenance:
    versions = {name: installed_version(name) for name in _LIBRARIES}
    return Provenance(
        source=source.origin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries={name: version for name, version in versions.items() if version},
        recipe=source.recipe,
    )


def _require_same_words(manifest: Manifest, source: ExportSource) -> None:
    """Check what the numbers cannot show: task, class names and preprocessing."""
    pairs: dict[str, tuple[object, object]] = {
        "task": (manifest.task, source.task),
        "classes": ([c.name for c in manifest.classes], [c.name for c in source.classes]),
        "preprocessing": (manifest.preprocessing, source.preprocessing),
    }
    different = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    if different:
        raise ParityError(
            f"bundle {manifest.name!r} was not exported from this: {', '.join(different)} differ; "
            "export it again, or name the checkpoint that it came from"
        )


def _is_dynamic(source: ExportSource) -> bool:
    return source.task == "segment"


def _words_for(images: Sequence[Path]) -> str:
    return f"{len(images_from(images))} images given" if images else "the sample photos of dlcv"


def _pytorch() -> str:
    return f"PyTorch {installed_version('torch')} fp32 cpu"
