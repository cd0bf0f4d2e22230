"""Exports a source as a bundle: wrap, export, pass the parity gate, record golden cases, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dlcv.export.gate import pass_gate
from dlcv.export.onnx_export import graph_from_wrapper
from dlcv.export.reference import Reference
from dlcv.export.sources import ExportSource
from dlcv.export.tasks import TASKS, FurtherGraph
from dlcv.export.wrappers import Wrapper
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
from dlcv.runtime.bundle.contract import TASKS as CONTRACTS
from dlcv.runtime.bundle.manifest import Manifest
from dlcv.runtime.bundle.schema import ParityReport
from dlcv.runtime.engines import load_engine
from dlcv.runtime.errors import InputError, ParityError


@dataclass(frozen=True, kw_only=True)
class ExportParts:
    """A source made ready for an export. further: its graphs besides the one that takes images."""

    source: ExportSource
    wrapper: Wrapper
    reference: Reference
    further: Sequence[FurtherGraph]
    takes_any_size: bool

    def graph(self) -> ExportedGraph:
        """Export the graph that takes images. Its height and width are dynamic where the task's are.

        Raises:
            InputError: the network's code cannot be turned into a graph.
        """
        preprocessing = self.source.preprocessing
        multiple = preprocessing.multiple if self.takes_any_size else None
        return graph_from_wrapper(self.wrapper, preprocessing.size, multiple=multiple)


def parts_of_source(source: ExportSource) -> ExportParts:
    """Return what is exported of a source, and what it is compared with.

    Raises:
        InputError: the model does not take images of the size, gives other answers each time, or has other classes
            than are named.
    """
    task = TASKS[source.task]
    _require_fit(source)
    wrapper = task.wrapper(source).eval()
    return ExportParts(
        source=source,
        wrapper=wrapper,
        reference=Reference(source, wrapper),
        further=task.further(source),
        takes_any_size=task.takes_any_size,
    )


def export_bundle(source: ExportSource, out: Path, options: BundleOptions | None = None) -> Bundle:
    """Export a source and return the bundle. It is written only if the parity gate passes.

    Raises:
        InputError: the model cannot be exported, or the images do not do.
        OutputError: `out` exists, or cannot be written.
        ParityError: the graph does not give what the model gives.
    """
    options = options or BundleOptions()
    require_writable(out, overwrite=options.overwrite)
    options.progress("exporting the graph")
    parts = parts_of_source(source)

    def further(model: Part) -> list[Part]:
        return [
            Part(
                name=graph.name,
                graph=graph.graph(model.golden),
                runs=graph.runs(model.runs),
                golden=graph.golden(model.golden),
            )
            for graph in parts.further
        ]

    return proved_bundle(
        source, parts.graph(), parts.reference, out=out, options=options, further=further
    )


def verify_bundle(
    path: Path, source: ExportSource, *, images: Sequence[Path] = (), engine: str = "auto"
) -> ParityReport:
    """Compare a bundle with the source that it was exported from, with the parity gate.

    Raises:
        BundleError: the bundle is damaged.
        ParityError: it does not give what the source gives, or says something else about it.
    """
    bundle = open_bundle(path)
    parts = parts_of_source(source)
    _require_same_words(bundle.manifest, parts)
    dynamic = parts.takes_any_size
    runs = gate_runs(parts.reference, source.preprocessing, images=images, dynamic=dynamic)
    reference, words = parts.reference.words, words_for(images)
    for graph in parts.further:
        with load_engine(bundle, engine, graph=graph.name) as loaded:
            weights = bundle.variant(graph=graph.name).weights
            pass_gate(graph.runs(runs), loaded, reference=reference, images=words, weights=weights)
    with load_engine(bundle, engine) as loaded:
        return pass_gate(
            runs,
            loaded,
            reference=reference,
            images=words,
            threshold=source.threshold,
            weights=bundle.variant().weights,
        )


def _require_fit(source: ExportSource) -> None:
    """Run the model once, because the size and classes that users give may be wrong."""
    if CONTRACTS[source.task].covers_image and source.preprocessing.resize == "center_crop":
        raise InputError(
            "a mask covers the whole image, so a segmenter's resize is stretch, letterbox or longest_side, not center_crop"
        )
    task, (height, width) = TASKS[source.task], source.preprocessing.size
    pixels = torch.zeros(1, source.preprocessing.channels, height, width)
    try:
        with torch.inference_mode():
            output = task.network(source, pixels)
    except (RuntimeError, AssertionError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise InputError(
            f"the model does not take images of {height}x{width} ({reason}); give another --size"
        ) from e
    columns = task.columns(source)
    if columns is not None and output.shape[1] != columns:
        raise InputError(
            f"the model has {output.shape[1]} classes, {len(source.classes)} are named; "
            "give --classes FILE with one name a line for each"
        )


def _require_same_words(manifest: Manifest, parts: ExportParts) -> None:
    """Check what numbers cannot show: task, class names and preprocessing."""
    source = parts.source
    pairs: dict[str, tuple[object, object]] = {
        "task": (manifest.task, source.task),
        "classes": ([c.name for c in manifest.classes], [c.name for c in source.classes]),
        "preprocessing": (manifest.preprocessing, source.preprocessing),
        "activation": (manifest.activation, source.activation),
        "threshold": (manifest.threshold, source.threshold),
        "graphs": (
            set(manifest.graphs) - {manifest.main_graph},
            {graph.name for graph in parts.further},
        ),
    }
    different = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    if different:
        raise ParityError(
            f"bundle {manifest.name!r} was not exported from this: {', '.join(different)} differ; "
            "export it again, or name the checkpoint that it came from"
        )
