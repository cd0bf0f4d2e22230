"""The parity gate: compares PyTorch with an engine on real images. Nothing is exported that fails it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dlcv.runtime.bundle.schema import ParityReport, Preprocessing, Storage
from dlcv.runtime.engines.base import Arrays, Engine
from dlcv.runtime.errors import ImageError, InputError, ParityError
from dlcv.runtime.images import SUFFIXES, load_pixels
from dlcv.runtime.measure.parity import Tolerance, compare, tolerances_of, worst

MAX_IMAGES = 32
_LARGER_BATCH = 4
_IMAGES_OF_OTHER_SIZE = 3
_MANY_FAILURES = 12
_GOLDEN_SIZES = ((192, 256), (256, 192))  # for dynamic graphs; small, so that bundles stay small

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pixels for one run. image: uint8 (B, H, W, C)."""

    name: str
    image: Pixels


@dataclass(frozen=True, kw_only=True)
class Run:
    """A test case: a graph's inputs and the reference's outputs, arrays by name. `name` is for messages."""

    name: str
    feeds: Arrays
    expected: Arrays


def images_from(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the image files among files and folders, at most `MAX_IMAGES`, in order.

    Raises:
        InputError: a path does not exist, or there are fewer than two images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"no image or folder {path}")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        found += inside if path.is_dir() else [path]
    if len(found) < 2:
        raise InputError(f"the parity gate needs two images or more, received {len(found)}")
    return tuple(found[:MAX_IMAGES])


def gate_batches(
    images: Sequence[Path], preprocessing: Preprocessing, *, dynamic: bool
) -> list[Batch]:
    """Return a batch of one image and batches of several. Dynamic graphs get them at two image sizes.

    Raises:
        InputError: an image cannot be read.
    """
    usual, other = _two_sizes(preprocessing) if dynamic else (None, None)
    batches = _batches(images, _stretched(preprocessing, usual))
    if dynamic:
        batches += _batches(images[:_IMAGES_OF_OTHER_SIZE], _stretched(preprocessing, other))
    return batches


def golden_batches(
    images: Sequence[Path], preprocessing: Preprocessing, *, dynamic: bool
) -> list[Batch]:
    """Return a batch of one image and a batch of two others; small images for dynamic graphs.

    Raises:
        InputError: fewer than three images.
    """
    if len(images) < 3:
        raise InputError(f"golden cases need three images, received {len(images)}")
    sizes = _GOLDEN_SIZES if dynamic else (None, None)
    cases = (images[:1], images[1:3])
    return [
        _batch([_pixels(path, _stretched(preprocessing, size)) for path in paths])
        for size, paths in zip(sizes, cases, strict=True)
    ]


def runs_from(reference: Callable[[Pixels], Arrays], batches: Sequence[Batch]) -> list[Run]:
    """Run the reference on each batch."""
    return [
        Run(name=batch.name, feeds={"image": batch.image}, expected=reference(batch.image))
        for batch in batches
    ]


def pass_gate(
    runs: Sequence[Run],
    engine: Engine,
    *,
    reference: str,
    images: str,
    threshold: float | None = None,
    weights: Storage = "fp32",
    tolerances: Mapping[str, Tolerance] | None = None,
) -> ParityReport:
    """Run an engine on every batch and report its deviation from the reference.

    The tolerances by output are those of the engine's precision, if none are given.

    reference, images: for the report, in words. threshold: of independent labels, as in the manifest. weights: fp16 if they
    are the reference's, rounded.

    Raises:
        ParityError: anything is out of tolerance; the message lists every failure.
        EngineError: the engine failed.
    """
    if tolerances is None:
        tolerances = tolerances_of(engine.info.precision, weights=weights)
    compared = [
        compare(
            run.expected,
            engine.infer(run.feeds),
            specs=engine.outputs,
            case=run.name,
            tolerances=tolerances,
            threshold=threshold,
        )
        for run in runs
    ]
    result = worst(compared)
    if result.failures:
        raise ParityError(_failure_text(result.failures, reference=reference, engine=engine))
    return ParityReport(
        reference=reference,
        engine=str(engine.info),
        images=images,
        input_shapes=tuple(dict.fromkeys(next(iter(run.feeds.values())).shape for run in runs)),
        outputs=result.outputs,
    )


def _failure_text(failures: Sequence[str], *, reference: str, engine: Engine) -> str:
    shown = [f"\n  - {failure}" for failure in failures[:_MANY_FAILURES]]
    more = len(failures) - len(shown)
    if more > 0:
        shown.append(f"\n  - and {more} more")
    return (
        f"{engine.info} does not give what {reference} gives; nothing was written. "
        f"{len(failures)} checks failed:{''.join(shown)}"
    )


def _two_sizes(preprocessing: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the graph's usual size and a second one: height and width swapped, or a narrower one if it is square."""
    height, width = preprocessing.size
    if height != width:
        return (height, width), (width, height)
    multiple = preprocessing.multiple
    return (height, width), (height, max(1, width * 3 // 4 // multiple) * multiple)


def _stretched(preprocessing: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    """Resize all images to one size, so that they fit into one batch. None keeps the bundle's own sizes."""
    if size is None:
        return preprocessing
    return Preprocessing(
        resize="stretch",
        size=size,
        resample=preprocessing.resample,
        channels=preprocessing.channels,
    )


def _pixels(path: Path, preprocessing: Preprocessing) -> Pixels:
    try:
        return load_pixels(path, preprocessing).pixels
    except ImageError as e:
        raise InputError(f"{path}: {e}") from e


def _batches(images: Sequence[Path], preprocessing: Preprocessing) -> list[Batch]:
    """Return the first image alone, and the rest (of two images, both) in larger batches."""
    pixels = [_pixels(path, preprocessing) for path in images]
    rest = pixels[1:] if len(pixels) > 2 else pixels
    starts = range(0, len(rest), _LARGER_BATCH)
    return [_batch(pixels[:1]), *(_batch(rest[i : i + _LARGER_BATCH]) for i in starts)]


def _batch(pixels: Sequence[Pixels]) -> Batch:
    image = np.stack(pixels)
    return Batch(name=f"batch {'x'.join(map(str, image.shape))}", image=image)
