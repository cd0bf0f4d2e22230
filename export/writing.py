"""Shared by exports and imports: check the graph, record golden cases, write the bundle. Without PyTorch."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from dlcv.export.half_storage import storage_of, stored_in_half
from dlcv.export.model_card import card_from_manifest
from dlcv.export.sources.base import ModelFacts
from dlcv.runtime.bundle import Bundle, save_bundle
from dlcv.runtime.bundle.contract import main_graph
from dlcv.runtime.bundle.manifest import CARD_FILE, SCHEMA_VERSION, Manifest
from dlcv.runtime.bundle.schema import (
    FileEntry,
    Graph,
    ParityReport,
    Precision,
    Preprocessing,
    Provenance,
    Storage,
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
_LIBRARIES = ("dlcv", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


def _silent(_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """How to write a bundle.

    name, description, licence: in the manifest, instead of the source's. data: what the weights were trained on, in the model
    card, instead of the source's text. limits: sentences for the model card, besides the source's. weights: how to store the
    graph's large weights; fp16 halves its file, and the arithmetic stays fp32. images: files and folders for the parity
    gate; empty means dlcv's sample photos. overwrite: replace an existing bundle. progress: called with progress messages.
    """

    name: str | None = None
    description: str | None = None
    licence: str | None = None
    data: str | None = None
    limits: tuple[str, ...] = ()
    weights: Storage = "fp32"
    images: tuple[Path, ...] = ()
    overwrite: bool = False
    progress: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(NAME_PATTERN, self.name):
            raise InputError(
                f"a bundle's name has letters, digits, '.', '_' and '-' and at most 100 of them, "
                f"not {self.name!r}"
            )
        texts = {"--description": self.description, "--licence": self.licence}
        texts |= {"--data-note": self.data}
        for option, text in (*texts.items(), *(("--limit", limit) for limit in self.limits)):
            if text is not None and (not text.strip() or len(text.splitlines()) > 1):
                raise InputError(f"{option} takes one line of text, not {text!r}")

    @property
    def command_line(self) -> str:
        """The options as typed on the command line, file names without folders. Starts with a space, if there are any."""
        given: list[tuple[str, str | None]] = [
            ("--name", self.name),
            ("--description", self.description),
            ("--licence", self.licence),
            ("--data-note", self.data),
            *(("--limit", limit) for limit in self.limits),
            ("--store-weights", None if self.weights == "fp32" else self.weights),
            *(("--images", path.name) for path in self.images),
        ]
        return "".join(f" {option} {shlex.quote(text)}" for option, text in given if text)

    def applied_to(self, facts: ModelFacts) -> ModelFacts:
        """Return a source's facts with what these options say instead."""
        *before, last = facts.remake
        return replace(
            facts,
            name=self.name or facts.name,
            description=self.description or facts.description,
            licence=self.licence or facts.licence,
            data=self.data or facts.data,
            limits=(*facts.limits, *self.limits),
            remake=(*before, last + self.command_line),
        )


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """An ONNX model as bytes, its tensors as in the manifest, and the precision of its arithmetic.

    is_rounded: its weights are the reference's, rounded to fp16.
    """

    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int = OPSET
    precision: Precision = "fp32"
    is_rounded: bool = False

    @property
    def weights(self) -> Storage:
        """How the weights are stored, of a graph of fp32 arithmetic."""
        return storage_of(self.model) if self.precision == "fp32" else "fp32"

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
        return pass_gate(
            runs,
            engine,
            reference=reference,
            images=images,
            threshold=threshold,
            weights="fp16" if graph.is_rounded else "fp32",
        )


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
    Golden cases are always made from dlcv's sample photos, which may be redistributed. With weights in fp16, the graphs pass
    the gate twice: as exported, with the tolerances of fp32, and as they are written.

    Raises:
        InputError: the images do not do.
        OutputError: `out` exists, or cannot be written.
        ParityError: a graph does not give what the reference gives.
    """
    facts = options.applied_to(facts)
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
    if options.weights == "fp16":
        parts = _stored_in_half(parts, options.progress)
        graphs = {part.name: asked(part) for part in parts}
    golden_files = {name: data for part in parts for name, data in _golden_files(part).items()}
    files = {part.file: part.graph.model for part in parts} | golden_files | dict(facts.files)
    manifest = _manifest(facts, graphs, files=files, golden=tuple(golden_files))
    files[CARD_FILE] = card_from_manifest(manifest, facts).encode()
    options.progress("writing the bundle")
    return save_bundle(out, manifest, files=files, overwrite=options.overwrite)


def _stored_in_half(parts: Sequence[Part], progress: Callable[[str], None]) -> list[Part]:
    """Return the parts with large weights in fp16.

    Raises:
        InputError: none of them has such weights.
    """
    progress("storing the weights in fp16, and comparing again")
    stored = []
    for part in parts:
        graph = part.graph
        if graph.precision == "fp32":
            half = stored_in_half(graph.model)
            if half.kept:
                progress(f"in fp32 stay {', '.join(half.kept)}: float16 cannot hold their values")
            graph = replace(graph, model=half.model, is_rounded=not half.is_exact)
        stored.append(replace(part, graph=graph))
    if all(part.graph.weights == "fp32" for part in stored):
        raise InputError(
            "no large part of the weights is float32 that float16 can hold; leave out --store-weights fp16"
        )
    return stored


def _proved(part: Part, *, reference: str, images: str, threshold: float | None) -> Graph:
    graph = part.graph
    parity = prove(
        graph,
        [*part.runs, *part.golden],
        reference=reference,
        images=images,
        threshold=threshold,
    )
    variant = Variant(file=part.file, opset=graph.opset, parity=parity, weights=graph.weights)
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
    files: dict[str, bytes],
    golden: tuple[str, ...],
) -> Manifest:
    fields = {
        "schema_version": SCHEMA_VERSION,
        "name": facts.name,
        "task": facts.task,
        "description": facts.description,
        "licence": facts.licence,
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
