"""The reference of an import's parity gate: the file itself, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, final

import numpy as np
import onnx

from dlcv.export.onnx_import.heads import Head
from dlcv.export.onnx_import.image_input import Entry
from dlcv.export.onnx_import.intermediates import Tap, with_taps
from dlcv.export.onnx_import.session import Session
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.machine.system import installed_version

Array: TypeAlias = "np.ndarray[Any, Any]"


@final
class Original:
    """The file's unchanged graph, run on one image at a time, with pixels scaled in numpy."""

    def __init__(self, model: onnx.ModelProto, entry: Entry, taps: Sequence[Tap]) -> None:
        self._session = Session(with_taps(model, taps))
        self._entry = entry
        self._names = [tap.name for tap in taps]

    def scores(self, image: Array, shapes: Sequence[tuple[int, ...]] | None = None) -> list[Array]:
        """Return the tapped tensors, one row per image. image: uint8 (B, H, W, 3) RGB.

        shapes: of one image's tensors, for a file whose outputs have no batch axis.
        """
        name, outputs = self._entry.name, self._names
        taken = [self._entry.from_pixels(one[None]) for one in image]
        rows = [self._session.run(name, one, outputs=outputs) for one in taken]
        stacked = [np.stack(arrays) for arrays in zip(*rows, strict=True)]
        if shapes is None:
            return stacked
        return [_unbatched(array, len(shape)) for array, shape in zip(stacked, shapes, strict=True)]


@final
class FileReference:
    """Computes the bundle's outputs with the file's own graph, and pre- and postprocessing in numpy."""

    def __init__(
        self, original: Original, head: Head, *, file: str, shapes: Sequence[tuple[int, ...]]
    ) -> None:
        self._original = original
        self._head = head
        self._shapes = shapes
        self._file = file

    @property
    def words(self) -> str:
        """A description of the reference, for reports."""
        version = installed_version("onnxruntime") or installed_version("onnxruntime-gpu")
        return f"{self._file} on ONNX Runtime {version} cpu"

    def __call__(self, image: Array) -> Arrays:
        """Return the outputs by name. image: uint8 (B, H, W, 3) RGB."""
        tensors = self._original.scores(image, self._shapes)
        return self._head.answers(tensors, (image.shape[1], image.shape[2]))


def _unbatched(array: Array, rank: int) -> Array:
    """Return (B, ...) with `rank` + 1 axes from (B, 1, ...) or (B, ...)."""
    return array[:, 0] if array.ndim == rank + 2 else array
