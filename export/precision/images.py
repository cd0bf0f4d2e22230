"""Loads calibration and comparison images with the bundle's preprocessing, in batches of equal shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlcv.export.gate import Batch
from dlcv.export.precision.intermediates import Pixels
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import Refused, load_pixels
from dlcv.runtime.images.sources import expand_inputs

FEWEST_IMAGES, ENOUGH_IMAGES, MOST_IMAGES = 16, 100, 500
_GATE_IMAGES = 9
_BATCH_PIXELS = 2**19  # per batch; all its intermediate tensors are in memory at once
_LARGEST_BATCH = 16


def calibration_pixels(
    inputs: Sequence[str], preprocessing: Preprocessing, *, warn: Callable[[str], None]
) -> list[Pixels]:
    """Return the pixels of images, uint8 (H, W, 3); of more than 500, an evenly spaced selection.

    warn: called for each image that cannot be read, and if there are fewer than 100.

    Raises:
        InputError: fewer than 16 images can be read.
    """
    sources = list(expand_inputs(inputs))
    step = max(1, -(-len(sources) // MOST_IMAGES))
    found = []
    for source in sources[::step]:
        try:
            if isinstance(source, Refused):
                raise ImageError(source.reason)
            found.append(load_pixels(source.path, preprocessing).pixels)
        except ImageError as e:
            warn(f"skipped {source.name if isinstance(source, Refused) else source.path}: {e}")
    if len(found) < FEWEST_IMAGES:
        raise InputError(
            f"calibration needs {FEWEST_IMAGES} readable images or more (better {ENOUGH_IMAGES}), "
            f"received {len(found)} of {len(sources)}; give more with --calibrate"
        )
    if len(found) < ENOUGH_IMAGES:
        warn(f"{len(found)} images are few for calibration; {ENOUGH_IMAGES} or more are better")
    return found


def batches_of(images: Sequence[Pixels]) -> list[Pixels]:
    """Return images as batches (B, H, W, 3) of equal shape."""
    by_shape: dict[tuple[int, ...], list[Pixels]] = {}
    for image in images:
        by_shape.setdefault(image.shape, []).append(image)
    batches = []
    for shape, group in by_shape.items():
        size = min(_LARGEST_BATCH, max(1, _BATCH_PIXELS // (shape[0] * shape[1])))
        batches += [np.stack(group[i : i + size]) for i in range(0, len(group), size)]
    return batches


def gate_batches_of(images: Sequence[Pixels]) -> list[Batch]:
    """Return a few of the images for the parity gate: the first alone, others in batches."""
    chosen = list(images)[:: max(1, len(images) // _GATE_IMAGES)][:_GATE_IMAGES]
    stacks = [chosen[0][None], *batches_of(chosen[1:])]
    return [Batch(name=f"batch {'x'.join(map(str, s.shape))}", image=s) for s in stacks]
