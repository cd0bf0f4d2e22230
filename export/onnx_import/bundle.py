"""Imports an ONNX file as a bundle: read, make the batch dynamic, wrap, pass the parity gate, write."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import numpy as np
import onnx

from dlcv.export.onnx_import.heads import HEADS, Findings, Head
from dlcv.export.onnx_import.image_input import Entry, entry_of
from dlcv.export.onnx_import.normalise import core_from_model, shapes_of
from dlcv.export.onnx_import.options import ImportOptions
from dlcv.export.onnx_import.read import model_from_file, opset_of
from dlcv.export.onnx_import.reference import FileReference, Original
from dlcv.export.onnx_import.wrap import wrapped
from dlcv.export.sources.base import ModelFacts, read_classes
from dlcv.export.writing import proved_bundle, require_writable
from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import ClassInfo, Preprocessing
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.results.draw import palette

_LOOKED_AT = 3  # photos used to detect whether outputs are probabilities


def import_bundle(path: Path, out: Path, options: ImportOptions) -> Bundle:
    """Wrap a file's graph and return the bundle. It is written only if the parity gate passes.

    The reference is the file itself, run by ONNX Runtime on one image at a time, with pre- and postprocessing
    in numpy.

    Raises:
        InputError: the file cannot become a bundle of the task, or an option does not fit.
        OutputError: `out` exists, or cannot be written.
        ParityError: the bundle's graph does not give what the file gives.
    """
    require_writable(out, overwrite=options.writing.overwrite)
    options.writing.progress("reading the file")
    model = model_from_file(path)
    entry = entry_of(model, options)
    preprocessing = _preprocessing(entry, options)
    kind = HEADS[options.task]
    taps = kind.taps(model, entry, options)
    core = core_from_model(model, entry, taps=taps, opset=options.opset)
    shapes = shapes_of(core, entry, taps)
    original = Original(model, entry, taps)
    photos = [load_pixels(p, preprocessing).pixels for p in sample_paths()[:_LOOKED_AT]]
    samples = [original.scores(photo[None], shapes)[0] for photo in photos]
    head = kind.head(Findings(shapes=shapes, samples=samples, entry=entry, options=options))
    graph = wrapped(core, entry=entry, taps=taps, head=head)
    reference = FileReference(original, head, file=path.name, shapes=shapes)
    facts = _facts(path, model, head=head, preprocessing=preprocessing, options=options)
    return proved_bundle(facts, graph, reference, out=out, options=options.writing)


def _preprocessing(entry: Entry, options: ImportOptions) -> Preprocessing:
    try:
        return Preprocessing(
            resize=options.resize,
            size=entry.size,
            multiple=options.multiple,
            resample=options.resample,
            crop_fraction=options.crop_fraction,
            pad=options.border,
            pad_at=options.pad_at or "center",
        )
    except ValueError as e:
        raise InputError(f"the options do not fit together: {e}") from e


def _facts(
    path: Path,
    model: onnx.ModelProto,
    *,
    head: Head,
    preprocessing: Preprocessing,
    options: ImportOptions,
) -> ModelFacts:
    producer = f"{model.producer_name} {model.producer_version}".strip() or "not stated"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ModelFacts(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "imported",
        task=options.task,
        classes=_classes(head, options),
        preprocessing=preprocessing,
        activation="softmax" if head.threshold is None else "sigmoid",
        threshold=head.threshold,
        description=f"{path.name}, an ONNX file that somebody else made (producer: {producer}), "
        "wrapped by dlcv.",
        licence="not stated",
        origin=f"{path.name}, opset {opset_of(model)}, SHA-256 {sha256}",
        data="Not stated by the file.",
        remake=(f"dlcv-export import {shlex.quote(path.name)} {options.command_line}",),
        limits=("Classes and scaling of pixels are what was said at the import.",),
    )


def _classes(head: Head, options: ImportOptions) -> tuple[ClassInfo, ...]:
    """Return the named classes, or numbered ones. Classes of masks have colours."""
    if options.classes is None:
        classes = tuple(ClassInfo(name=f"class_{i}") for i in range(head.classes))
    else:
        classes = read_classes(options.classes)
    if len(classes) != head.classes:
        raise InputError(
            f"the graph has {head.classes} classes, {options.classes} names {len(classes)}; "
            "write one name a line for each"
        )
    if not head.colors_classes:
        return classes
    colors = palette(classes).astype(np.int64).tolist()
    return tuple(
        ClassInfo(name=c.name, color=(r, g, b))
        for c, (r, g, b) in zip(classes, colors[: len(classes)], strict=True)
    )
