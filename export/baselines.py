"""Eager and compiled PyTorch as engines, the baselines of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn

from dlcv.export.sources import ExportSource
from dlcv.export.tasks import normalize_of
from dlcv.export.wrappers.segmenter import mask_dtype, segmentation_logits
from dlcv.runtime.bundle.schema import DType, Precision, Task, TensorSpec
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineInfo
from dlcv.runtime.errors import EngineError, InputError
from dlcv.runtime.machine.system import cpu_count
from dlcv.runtime.measure.bench import Contestant

Decision: TypeAlias = "Callable[[ExportSource, Tensor], Tensor]"
"""From a source and what its network gives, to the task's main output."""


class Answer(nn.Module):
    """The whole computation in PyTorch: normalisation, the unchanged network, and the task's main output."""

    def __init__(self, source: ExportSource, dtype: torch.dtype) -> None:
        super().__init__()
        self.normalize = normalize_of(source)
        self.model = deepcopy(source.model).to(dtype)
        self._decision = partial(_DECISIONS[source.task], replace(source, model=nn.Identity()))
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """Return probabilities float32 (B, classes) or a mask uint8 (B, H, W). image: uint8 (B, H, W, C)."""
        pixels = self.normalize(image).to(self.dtype)
        return self._decision(segmentation_logits(self.model, pixels))


def _probabilities(source: ExportSource, logits: Tensor) -> Tensor:
    is_independent = source.activation == "sigmoid"
    return logits.float().sigmoid() if is_independent else logits.float().softmax(dim=1)


def _mask(source: ExportSource, logits: Tensor) -> Tensor:
    if source.threshold is not None:
        return (logits.squeeze(1).sigmoid() >= source.threshold).to(torch.uint8)
    return logits.argmax(dim=1).to(mask_dtype(len(source.classes)))


_DECISIONS: dict[Task, Decision] = {"classify": _probabilities, "segment": _mask}


def torch_baselines(source: ExportSource, *, threads: int | None) -> tuple[Contestant, ...]:
    """Return eager and compiled PyTorch as contestants: in fp32, and on a GPU also in fp16.

    Raises:
        InputError: the source's task has no baseline.
    """
    if source.task not in _DECISIONS:
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
        shape = ("batch", height, width, source.preprocessing.channels)
        self._inputs = (TensorSpec(name="image", dtype="uint8", shape=shape),)
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
        dtype: DType = "uint8" if len(source.classes) <= 1 << 8 else "uint16"
        return TensorSpec(name="mask", dtype=dtype, shape=("batch", "height", "width"))
    shape = ("batch", len(source.classes))
    return TensorSpec(name="probabilities", dtype="float32", shape=shape)
