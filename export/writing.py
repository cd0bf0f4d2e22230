"""Shared by exports and imports: check the graph, record golden cases, write the bundle. Without PyTorch."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from dlcv.export.gate import (
    Pixels,
    Run,
    gate_batches,
    golden_batches,
    images_from,
    pass_gate,
    runs_from,
)
from dlcv.export.model_card import card_from_manifest
from dlcv.export.sources.base import ModelFacts
from dlcv.runtime.bundle import Bundle, save_bundle
from dlcv.runtime.bundle.contract import main_graph
from dlcv.runtime.bundle.manifest import SCHEMA_VERSION, Manifest
from dlcv.runtime.bundle.schema import (
    FileEntry,
    Graph,
    ParityReport,
    Precision,
    Preprocessing,
    Provenance,
    TensorSpec,
    Variant,
)
from dlcv.runtime.caption.vocabulary import TOKENIZER_FILE
from dlcv.runtime.engines.base import Arrays, EngineModel, EngineOptions, check_specs
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.machine.system import installed_version

OPSET = 18  # the default of torch's exporter; every engine of dlcv reads it
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
CARD_FILE = "README.md"
_LIBRARIES = ("dlcv", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


def _silent(_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """How to write a bundle.

    name: in the manifest, instead of the source's. licence: instead of the source's text. images: files and
    folders for the parity gate; empty means dlcv's sample photos. overwrite: replace an existing bundle.
    progress: called with progress messages.
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


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """An ONNX model as bytes, its tensors as in the manifest, and the precision of its arithmetic."""

    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int = OPSET
    precision: Precision = "fp32"

    @property
    def is_dynamic(self) -> bool:
        """Whether it takes images of any height and width."""
        return isinstance(self.inputs[0].shape[1], str)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A graph to put into a bundle.

    golden: the runs to record as golden cases. runs: further runs that it must pass.
    """

    name: str
    graph: ExportedGraph
    runs: Sequence[Run]
    golden: Sequence[Run]

    @property
    def file(self) -> str:
        """The graph's file in the bundle."""
        precision = self.graph.precision
        return f"{self.name}.onnx" if precision == "fp32" else f"{self.name}.{precision}.onnx"


class Answerer(Protocol):
    """The reference for a graph: the model itself, run without the graph. words: its description."""

    @property
    def words(self) -> str: ...

    def __call__(self, image: Pixels) -> Arrays:
        """Return an array for each output of the graph, from pixels, uint8 (B, H, W, C)."""
        ...


def require_writable(out: Path, *, overwrite: bool) -> None:
    """Check in advance what `save_bundle` checks at the end.

    Raises:
        OutputError: `out` exists and may not be replaced.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or give --overwrite")


def prove(
    graph: ExportedGraph,
    runs: Sequence[Run],
    *,
    reference: str,
    images: str,
    threshold: float | None = None,
) -> ParityReport:
    """Load a graph on ONNX Runtime, check its tensors, and pass the gate.

    reference, images, threshold: see `pass_gate`.

    Raises:
        BundleError: the graph does not load, or has other tensors than it says.
        ParityError: it does not give what the reference gives.
    """
    described = Graph(inputs=graph.inputs, outputs=graph.outputs, variants={})
    model = EngineModel(onnx=graph.model, precision=graph.precision)
    with OrtEngine(model, EngineOptions()) as engine:
        check_specs(described, engine, source="the exported graph")
        return pass_gate(runs, engine, reference=reference, images=images, threshold=threshold)


def proved_bundle(
    facts: ModelFacts,
    graph: ExportedGraph,
    reference: Answerer,
    *,
    out: Path,
    options: BundleOptions,
    further: Callable[[Part], Sequence[Part]] | None = None,
) -> Bundle:
    """Compare a graph with its reference and write the bundle, if the parity gate passes.

    further: returns the graphs besides `model`; called with that part, whose runs hold the reference's outputs.
    Golden cases are always made from dlcv's sample photos, which may be redistributed.

    Raises:
        InputError: the images do not do.
        OutputError: `out` exists, or cannot be written.
        ParityError: a graph does not give what the reference gives.
    """
    options.progress(f"asking {reference.words} for the answers")
    batches = golden_batches(sample_paths(), facts.preprocessing, dynamic=graph.is_dynamic)
    golden = runs_from(reference, batches)
    runs = gate_runs(
        reference, facts.preprocessing, images=options.images, dynamic=graph.is_dynamic
    )
    model = Part(name=main_graph(facts.task), graph=graph, runs=runs, golden=golden)
    parts = [model, *(further(model) if further else ())]
    options.progress("comparing them with the bundle's on ONNX Runtime")
    words = words_for(options.images)
    asked = partial(_proved, reference=reference.words, images=words, threshold=facts.threshold)
    graphs = {part.name: asked(part) for part in parts}
    golden_files = {name: data for part in parts for name, data in _golden_files(part).items()}
    files = {part.file: part.graph.model for part in parts} | golden_files | dict(facts.files)
    manifest = _manifest(facts, graphs, options=options, files=files, golden=tuple(golden_files))
    files[CARD_FILE] = card_from_manifest(manifest, facts).encode()
    options.progress("writing the bundle")
    return save_bundle(out, manifest, files=files, overwrite=options.overwrite)


def _proved(part: Part, *, reference: str, images: str, threshold: float | None) -> Graph:
    graph = part.graph
    parity = prove(
        graph,
        [*part.runs, *part.golden],
        reference=reference,
        images=images,
        threshold=threshold,
    )
    variant = Variant(file=part.file, opset=graph.opset, parity=parity)
    return Graph(inputs=graph.inputs, outputs=graph.outputs, variants={graph.precision: variant})


def gate_runs(
    reference: Answerer,
    preprocessing: Preprocessing,
    *,
    images: Sequence[Path],
    dynamic: bool,
) -> list[Run]:
    """Run the reference on images, or on the sample photos if none are given.

    Raises:
        InputError: an image cannot be read, or there are too few.
    """
    paths = images_from(images) if images else sample_paths()
    return runs_from(reference, gate_batches(paths, preprocessing, dynamic=dynamic))


def words_for(images: Sequence[Path]) -> str:
    """Return how a parity report describes the given images."""
    return f"{len(images_from(images))} images given" if images else "the sample photos of dlcv"


def _golden_files(part: Part) -> dict[str, bytes]:
    """Return compressed NPZ files with arrays `input.NAME` and `output.NAME`, by path."""
    files = {}
    stem = "case" if part.name == "model" else part.name
    for number, run in enumerate(part.golden, start=1):
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"input.{name}": array for name, array in run.feeds.items()}
        arrays |= {f"output.{name}": array for name, array in run.expected.items()}
        np.savez_compressed(buffer, **arrays)
        files[f"golden/{stem}{number}.npz"] = buffer.getvalue()
    return files


def _manifest(
    facts: ModelFacts,
    graphs: dict[str, Graph],
    *,
    options: BundleOptions,
    files: dict[str, bytes],
    golden: tuple[str, ...],
) -> Manifest:
    fields = {
        "schema_version": SCHEMA_VERSION,
        "name": options.name or facts.name,
        "task": facts.task,
        "description": facts.description,
        "licence": options.licence or facts.licence,
        "classes": facts.classes,
        "preprocessing": facts.preprocessing,
        "activation": facts.activation,
        "threshold": facts.threshold,
        "graphs": graphs,
        "golden": golden,
        "tokenizer": TOKENIZER_FILE if TOKENIZER_FILE in facts.files else None,
        "metrics": facts.metrics,
        "provenance": _provenance(facts),
        "files": {name: FileEntry(sha256="0" * 64, size_bytes=len(files[name])) for name in files},
    }
    return msgspec.convert(msgspec.to_builtins(fields), Manifest)  # converting validates


def _provenance(facts: ModelFacts) -> Provenance:
    versions = {name: installed_version(name) for name in _LIBRARIES}
    return Provenance(
        source=facts.origin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries={name: version for name, version in versions.items() if version},
        recipe=facts.recipe,
    )
