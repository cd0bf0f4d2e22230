"""Exports a source as a bundle: wrap, export, pass the parity gate, record golden cases, write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from dlcv.export.caption import decoder_part, decoder_runs
from dlcv.export.distance import distance_part, distance_runs
from dlcv.export.gate import pass_gate
from dlcv.export.onnx_export import graph_from_wrapper
from dlcv.export.reference import Reference
from dlcv.export.sources import ExportSource
from dlcv.export.wrappers import Normalize, Wrapper, wrap
from dlcv.export.wrappers.segmenter import segmentation_logits
from dlcv.export.writing import (
    BundleOptions,
    ExportedGraph,
    Part,
    gate_runs,
    proved_bundle,
    require_writable,
    words_for,
)
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.manifest import Manifest
from dlcv.runtime.bundle.schema import ParityReport
from dlcv.runtime.engines import load_engine
from dlcv.runtime.errors import InputError, ParityError
from dlcv.train.caption.network import Captioner


def export_bundle(source: ExportSource, out: Path, options: BundleOptions | None = None) -> Bundle:
    """Export a source and return the bundle. It is written only if the parity gate passes.

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
    return proved_bundle(
        source,
        graph,
        Reference(source, wrapper),
        out=out,
        options=options,
        further=partial(_further_parts, source),
    )


def _further_parts(source: ExportSource, model: Part) -> Sequence[Part]:
    """Return the second graph: `distance` of a few-shot source, or `decoder` of a captioner."""
    if isinstance(source.model, Captioner):
        return [decoder_part(source.model.decoder, model)]
    return [distance_part(source.distance, model)] if source.distance is not None else []


def verify_bundle(
    path: Path, source: ExportSource, *, images: Sequence[Path] = (), engine: str = "auto"
) -> ParityReport:
    """Compare a bundle with the source that it was exported from, with the parity gate.

    Raises:
        BundleError: the bundle is damaged.
        ParityError: it does not give what the source gives, or says something else about it.
    """
    bundle = open_bundle(path)
    _require_same_words(bundle.manifest, source)
    reference = Reference(source, wrapper_from_source(source))
    runs = gate_runs(reference, source.preprocessing, images=images, dynamic=_is_dynamic(source))
    words = words_for(images)
    if source.distance is not None:
        tried = distance_runs(source.distance, runs)
        with load_engine(bundle, engine, graph="distance") as loaded:
            pass_gate(tried, loaded, reference=reference.words, images=words)
    if isinstance(source.model, Captioner):
        tried = decoder_runs(source.model.decoder, runs)
        with load_engine(bundle, engine, graph="decoder") as loaded:
            pass_gate(tried, loaded, reference=reference.words, images=words)
    with load_engine(bundle, engine) as loaded:
        return pass_gate(runs, loaded, reference=reference.words, images=words)


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
    """Run the model once, because the size and classes that users give may be wrong."""
    if isinstance(source.model, Captioner):
        return  # built for this size; has no classes
    height, width = source.preprocessing.size
    try:
        with torch.inference_mode():
            logits = segmentation_logits(source.model, torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise InputError(
            f"the model does not take images of {height}x{width} ({reason}); give another --size"
        ) from e
    if source.task != "embed" and logits.shape[1] != len(source.classes):
        raise InputError(
            f"the model has {logits.shape[1]} classes, {len(source.classes)} are named; "
            "give --classes FILE with one name a line for each"
        )


def exported_graph(source: ExportSource, wrapper: Wrapper) -> ExportedGraph:
    """Export the wrapper. Height and width are dynamic for segmenters."""
    preprocessing = source.preprocessing
    multiple = preprocessing.multiple if _is_dynamic(source) else None
    return graph_from_wrapper(wrapper, preprocessing.size, multiple=multiple)


def _require_same_words(manifest: Manifest, source: ExportSource) -> None:
    """Check what numbers cannot show: task, class names and preprocessing."""
    pairs: dict[str, tuple[object, object]] = {
        "task": (manifest.task, source.task),
        "classes": ([c.name for c in manifest.classes], [c.name for c in source.classes]),
        "preprocessing": (manifest.preprocessing, source.preprocessing),
        "graphs": ("distance" in manifest.graphs, source.distance is not None),
    }
    different = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    if different:
        raise ParityError(
            f"bundle {manifest.name!r} was not exported from this: {', '.join(different)} differ; "
            "export it again, or name the checkpoint that it came from"
        )


def _is_dynamic(source: ExportSource) -> bool:
    return source.task == "segment"
