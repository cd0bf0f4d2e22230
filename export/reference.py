"""PyTorch's outputs, the reference of the parity gate and of the golden cases."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from dlcv.export.sources import ExportSource
from dlcv.export.wrappers import Wrapper
from dlcv.export.wrappers.segmenter import segmentation_logits
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

    @property
    def words(self) -> str:
        """A description of the reference, for reports."""
        return f"PyTorch {torch.__version__.partition('+')[0]} fp32 cpu"

    def __call__(self, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Arrays:
        """Return the outputs by name. image: uint8 (B, H, W, 3) RGB.

        Raises:
            InputError: the network fails on images of this size.
        """
        names = self._wrapper.output_names
        try:
            with torch.inference_mode():
                outputs = self._decisions(self._normalised(image))
                if set(names) - set(outputs):
                    answers = self._wrapper(torch.tensor(image))
                    outputs = dict(zip(names, answers, strict=True)) | outputs
        except RuntimeError as e:  # PyTorch's, such as for a size that does not fit
            height, width = image.shape[1:3]
            reason = " ".join(str(e).split())
            raise InputError(
                f"the network fails on images of {height}x{width}, on which the parity gate runs it ({reason}); give a "
                "larger --size"
            ) from e
        return {name: np.ascontiguousarray(outputs[name].numpy()) for name in names}

    def _normalised(self, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        pixels = image.astype(np.float64) / 255
        pixels = (pixels - np.array(self._source.mean)) / np.array(self._source.std)
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))

    def _decisions(self, pixels: Tensor) -> dict[str, Tensor]:
        if self._source.task == "segment":
            probabilities = segmentation_logits(self._source.model, pixels).softmax(dim=1)
            confidence, mask = probabilities.max(dim=1)
            return {"mask": mask.to(torch.uint8), "confidence": confidence}
        if self._source.task == "embed":
            return {"embedding": self._source.model(pixels)}
        if self._source.task == "caption":
            captioner: Any = self._source.model
            return {"memory": captioner.decoder.memory(captioner.encoder(pixels))}
        return {"probabilities": self._source.model(pixels).softmax(dim=1)}
