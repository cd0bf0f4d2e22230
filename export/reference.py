"""PyTorch's outputs, the reference of the parity gate and of the golden cases."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from dlcv.export.sources import ExportSource
from dlcv.export.tasks import TASKS
from dlcv.export.wrappers import Wrapper
from dlcv.runtime.engines.base import Arrays
from dlcv.runtime.errors import InputError


@final
class Reference:
    """Computes a bundle's outputs in PyTorch, without the graph and, for the main outputs, without the wrapper.

    `probabilities`, `mask`, `confidence` and an embedder's `embedding` come from the unchanged model, on pixels
    that are normalised here, so that a wrong wrapper cannot agree with itself. The other outputs exist only in
    the wrapper, and come from running it in PyTorch.
    """

    def __init__(self, source: ExportSource, wrapper: Wrapper) -> None:
        self._source = source
        self._wrapper = wrapper
        self._task = TASKS[source.task]

    @property
    def words(self) -> str:
        """A description of the reference, for reports."""
        return f"PyTorch {torch.__version__.partition('+')[0]} fp32 cpu"

    def __call__(self, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Arrays:
        """Return the outputs by name. image: uint8 (B, H, W, C).

        Raises:
            InputError: the network fails on images of this size.
        """
        try:
            with torch.inference_mode():
                output = self._task.network(self._source, self._normalised(image))
                answers = dict(self._task.answers(self._source, output))
                if set(self._wrapper.graph_outputs) != set(answers):
                    answers = self._wrapper.reference(torch.tensor(image)) | answers
        except RuntimeError as e:  # PyTorch's, such as for a size that does not fit
            height, width = image.shape[1:3]
            reason = " ".join(str(e).split())
            raise InputError(
                f"the network fails on images of {height}x{width}, on which the parity gate runs it ({reason}); give a "
                "larger --size"
            ) from e
        return {name: np.ascontiguousarray(answer.numpy()) for name, answer in answers.items()}

    def _normalised(self, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        pixels = image.astype(np.float64) / 255
        if self._source.is_bgr:
            pixels = pixels[..., ::-1]
        pixels = (pixels - np.array(self._source.mean)) / np.array(self._source.std)
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
