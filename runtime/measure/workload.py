"""Inputs and background load for tuning and benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle


def image_size(bundle: Bundle, size: int | None) -> tuple[int, int]:
    """Return the (height, width) to measure with: the bundle's, or scaled to a longer side of `size`.

    Raises:
        InputError: a size was given for a graph of fixed size.
    """
    preprocessing = bundle.manifest.preprocessing
    if size is None:
        return preprocessing.size
    if isinstance(bundle.graph().inputs[0].shape[1], int):
        raise InputError(
            f"bundle {bundle.manifest.name!r} runs at {preprocessing.size[0]}x{preprocessing.size[1]} "
            "only; leave --size away"
        )
    multiple, longest = preprocessing.multiple, max(preprocessing.size)
    height, width = (
        max(1, round(side * size / longest / multiple)) * multiple for side in preprocessing.size
    )
    return height, width


@lru_cache(maxsize=16)
def feeds_of(
    batch: int, size: tuple[int, int], *, channels: int = 3
) -> dict[str, np.ndarray[Any, Any]]:
    """Return random pixels from a fixed seed: `image` uint8 (batch, H, W, channels)."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *size, channels), np.uint8)
    return {"image": pixels}


@contextmanager
def decoding() -> Iterator[None]:
    """Decode the sample photos repeatedly in a background thread, as when a folder of images is processed."""
    stopped = threading.Event()
    preprocessing = Preprocessing(resize="stretch", size=(224, 224))

    def work() -> None:
        for path in cycle(sample_paths()):
            if stopped.is_set():
                return
            load_pixels(path, preprocessing)

    thread = threading.Thread(target=work, name="dlcv-tune-decode", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
