"""Eager and compiled PyTorch as engines, the baselines of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from dlcv.export.sources import ExportSource
from dlcv.export.wrappers import Normalize
from dlcv.export.wrappers.segmenter import segmentation_logits
from dlcv.runtime.bundle.schema import Precision, TensorSpec
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineInfo
from dlcv.runtime.errors import EngineError, InputError
from dlcv.runtime.machine.system import cpu_count
from dlcv.runtime.measure.bench import Contestant

_OUTPUTS = {"classify": "probabilities", "segment": "mask"}


class Answer(nn.Module):
    """The whole computation in PyTorch: normalisation, the unchanged network, and the task's main output."""

    def __init__(self, source: ExportSource, dtype: torch.dtype) -> None:
        super().__init__()
        self.normalize = Normalize(source.mean, source.std)
        self.model = deepcopy(source.model).to(dtype)
        self.task = source.task
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """Return probabilities float32 (B, classes) or a mask uint8 (B, H, W). image: uint8 (B, H, W, 3)."""
        pixels = self.normalize(image).to(self.dtype)
        if self.task == "segment":
            return segmentation_logits(self.model, pixels).argmax(dim=1).to(torch.uint8)
        logits: Tensor = self.model(pixels)
        return logits.float().softmax(dim=1)


def torch_baselines(source: ExportSource, *, threads: int | None) -> tuple[Contestant, ...]:
    """Return eager and compiled PyTorch as contestants: in fp32, and on a GPU also in fp16.

    Raises:
        InputError: the source's task has no baseline.
    """
    if source.task not in _OUTPUTS:
        raise InputError(
            f"PyTorch is no baseline for task {source.task!r}; leave --checkpoint away"
        )
    on_gpu = torch.cuda.is_available()
    precisions: tuple[Precision, ...] = ("fp32", "fp16") if on_gpu else ("fp32",)
    return tuple(
        Contestant(
            label=f"torch {kind} {precision}",
            open=partial(TorchEngine, source, precision=precision, kind=kind, threads=threads),
            on_device=on_gpu,
        )
        for precision in precisions
        for kind in ("eager", "compile")
    )


@final
class TorchEngine(EngineBase):
    """A source's network in PyTorch, as an `Engine`. kind: "eager" or "compile"."""

    def __init__(
        self, source: ExportSource, *, precision: Precision, kind: str, threads: int | None
    ) -> None:
        torch.set_num_threads(threads or cpu_count())
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if precision == "fp16" else torch.float32
        answer = Answer(source, dtype).eval().to(self._device)
        self._call: Any = torch.compile(answer) if kind == "compile" else answer
        height, width = source.preprocessing.size
        self._inputs = (TensorSpec(name="image", dtype="uint8", shape=("batch", height, width, 3)),)
        self._outputs = (_output(source),)
        self._info = EngineInfo(
            name=f"torch {kind}",
            version=torch.__version__,
            device=str(self._device),
            precision=precision,
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the network once.

        Raises:
            EngineError: PyTorch or its compiler failed.
        """
        try:
            with torch.inference_mode():
                answer = self._call(torch.from_numpy(feeds["image"]).to(self._device))
        except RuntimeError as e:
            raise EngineError(f"PyTorch failed: {str(e).strip().splitlines()[0]}") from e
        return {self.outputs[0].name: answer.cpu().numpy()}

    def device_seconds(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], *, repeats: int
    ) -> list[float]:
        """Time the device alone; see `DeviceTimer`."""
        image = torch.from_numpy(feeds["image"]).to(self._device)
        event: Any = torch.cuda.Event  # its signature has no types
        marks = [event(enable_timing=True) for _ in range(repeats + 1)]
        with torch.inference_mode():
            self._call(image)
            marks[0].record()
            for mark in marks[1:]:
                self._call(image)
                mark.record()
        marks[-1].synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairwise(marks)]

    def close(self) -> None:
        """Free the network."""
        self._call = None


def _output(source: ExportSource) -> TensorSpec:
    if source.task == "segment":
        return TensorSpec(name="mask", dtype="uint8", shape=("batch", "height", "width"))
    shape = ("batch", len(source.classes))
    return TensorSpec(name="probabilities", dtype="float32", shape=shape)
