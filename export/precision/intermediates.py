"""Runs graphs on real images to get intermediate tensors, their ranges, and the noise between two graphs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime

from dlcv.export.precision.nodes import Array

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"  # (B, H, W, 3)

_LOG_ERRORS_ONLY = 3
_BINS = 2048


class Tap:
    """Runs a graph on the CPU and returns intermediate tensors along with its outputs."""

    def __init__(self, data: bytes, tensors: Collection[str], *, narrow: bool = False) -> None:
        """Load a graph. tensors: names of float32 tensors in it. narrow: as of `EngineModel`."""
        model = onnx.load_from_string(data)
        given = {value.name for value in model.graph.output}
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in tensors
            if name not in given
        )
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _LOG_ERRORS_ONLY
        settings.add_session_config_entry("session.x64quantprecision", str(int(not narrow)))
        self._session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        self._names = [*tensors]

    def __call__(self, image: Pixels) -> dict[str, Array]:
        """Return the tensors by name for uint8 pixels (B, H, W, 3)."""
        return dict(zip(self._names, self._session.run(self._names, {"image": image}), strict=True))


def largest_values(
    data: bytes, tensors: Collection[str], batches: Iterable[Pixels]
) -> dict[str, float]:
    """Return the largest absolute value of each tensor over all batches; infinity if any value is not finite."""
    tap = Tap(data, tensors)
    largest = dict.fromkeys(tensors, 0.0)
    for image in batches:
        for name, array in tap(image).items():
            peak = float(np.abs(array).max(initial=0))
            largest[name] = max(largest[name], peak if np.isfinite(peak) else np.inf)
    return largest


def histograms(
    data: bytes, largest: Mapping[str, float], batches: Iterable[Pixels]
) -> dict[str, Array]:
    """Return histograms of absolute values, int64 (2048,), in equal steps from 0 to each tensor's largest."""
    tap = Tap(data, list(largest))
    counts = {name: np.zeros(_BINS, np.int64) for name in largest}
    for image in batches:
        for name, array in tap(image).items():
            bins = np.abs(array).ravel() * (_BINS / max(largest[name], 1e-12))
            places = np.minimum(bins, _BINS - 1).astype(np.int64)
            counts[name] += np.bincount(places, minlength=_BINS)
    return counts


def noise_by_tensor(
    exact: bytes,
    lower: bytes,
    tensors: Sequence[str],
    batches: Iterable[Pixels],
    *,
    narrow: bool = False,
) -> dict[str, float]:
    """Return the noise-to-signal ratio of each tensor: energy of the difference over energy of the exact values.

    exact, lower: two graphs that both compute the tensors. narrow: of the lower one, as of `EngineModel`.
    """
    taps = Tap(exact, tensors), Tap(lower, tensors, narrow=narrow)
    signal, noise = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    for image in batches:
        wanted, received = (tap(image) for tap in taps)
        for name in tensors:
            expected = wanted[name].astype(np.float64)
            signal[name] += float(np.square(expected).sum())
            noise[name] += float(np.square(received[name] - expected).sum())
    return {name: noise[name] / max(signal[name], 1e-30) for name in tensors}
