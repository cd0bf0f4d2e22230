"""Compares a graph that resizes by itself with the way over the host: Pillow's resize, then the bundle's graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import PIL

from dlcv.export.any_size.compose import RESIZED, resized_spec
from dlcv.export.gate import Pixels, Run, pass_gate
from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.any_size import any_size_tensors
from dlcv.runtime.bundle.schema import ParityReport, Preprocessing, precision_of
from dlcv.runtime.bundle.variants import is_narrow
from dlcv.runtime.engines import engine_entry, why_unavailable
from dlcv.runtime.engines.base import Engine, EngineModel, EngineOptions
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import load_display, load_pixels
from dlcv.runtime.measure.parity import Comparison, Tolerance, worst

TOLERANCES = {
    RESIZED: Tolerance(max_difference=1),
    "probabilities": Tolerance(max_difference=2e-2, agreement=1.0),
    "embedding": Tolerance(cosine=0.9999),
    "explanation": Tolerance(cosine=0.999),
    "attention": Tolerance(cosine=0.999),
    "mask": Tolerance(agreement=0.999),
    "confidence": Tolerance(cosine=0.999),
    "memory": Tolerance(cosine=0.999),
}
"""How far an output may be from the way over the host; of the pixels that enter the network, 1 of 255."""
_ENGINES = ("ort", "openvino")
_WHOLE = 2**31  # pixels: longer than any side


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo as decoded and oriented. pixels: uint8 (H, W, C)."""

    name: str
    pixels: Pixels


def photos_from(paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[Photo]:
    """Yield photos, decoded in full: no decoder scales them down.

    Raises:
        InputError: one cannot be read.
    """
    for path in paths:
        try:
            image = load_display(path, longest=_WHOLE)
        except ImageError as e:
            raise InputError(f"{path}: {e}") from e
        grey = preprocessing.channels == 1
        pixels = np.asarray(image.convert("L"))[..., None] if grey else np.asarray(image)
        yield Photo(name=path.name, pixels=pixels)


def proved(bundle: Bundle, model: bytes, paths: Sequence[Path], *, images: str) -> ParityReport:
    """Run a graph with the output `RESIZED` on photos, on each engine for CPUs that is installed.

    images: for the report, in words. The report has the worst of the engines.

    Raises:
        ParityError: anything is out of tolerance; the message lists every failure.
        BundleError: an engine cannot load the graph.
        InputError: a photo cannot be read.
    """
    with _loaded(bundle, "ort") as engine:
        reference = f"{engine.info} after the resize of Pillow {PIL.__version__}"
        photos = photos_from(paths, bundle.manifest.preprocessing)
        runs = [_run(bundle, engine, photo) for photo in photos]
    reports = []
    for name in (n for n in _ENGINES if why_unavailable(n) is None):
        with _loaded(bundle, name, model) as engine:
            reports.append(
                pass_gate(
                    runs,
                    engine,
                    reference=reference,
                    images=images,
                    threshold=bundle.manifest.threshold,
                    tolerances=TOLERANCES,
                )
            )
    compared = [Comparison(outputs=report.outputs, failures=()) for report in reports]
    return msgspec.structs.replace(
        reports[0],
        engine=" and ".join(report.engine for report in reports),
        outputs=worst(compared).outputs,
    )


def _run(bundle: Bundle, engine: Engine, photo: Photo) -> Run:
    resized = load_pixels(photo.pixels, bundle.manifest.preprocessing).pixels[None]
    height, width, _ = photo.pixels.shape
    return Run(
        name=f"{photo.name} ({height}x{width})",
        feeds={"image": photo.pixels[None]},
        expected={RESIZED: resized, **engine.infer({"image": resized})},
    )


def _loaded(bundle: Bundle, name: str, model: bytes | None = None) -> Engine:
    """Load the bundle's own graph, or one that resizes and says so in `RESIZED`."""
    graph, variant = bundle.graph(), bundle.variant_name()
    tensors = graph.inputs + graph.outputs
    if model is not None:
        described = any_size_tensors(graph)
        tensors = (*described.inputs, *described.outputs, resized_spec(graph))
    loads = EngineModel(
        onnx=bundle.read(bundle.variant().file) if model is None else model,
        tensors=tensors,
        precision=precision_of(variant),
        narrow=is_narrow(variant),
    )
    settings = {"cache": "false"} if name == "openvino" else {}  # it may not pass
    return engine_entry(name).engine_class()(loads, EngineOptions(settings=settings))
