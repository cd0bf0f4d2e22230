"""Makes candidate graphs in a lower precision from a bundle's fp32 graph and images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from dlcv.export.precision.cpu import converted_nodes, cpu_model
from dlcv.export.precision.half import Half, half_model, half_plan, kept_nodes, rehearsal
from dlcv.export.precision.images import batches_of
from dlcv.export.precision.int8 import (
    METHODS,
    Method,
    quantisable_nodes,
    quantised_model,
    threshold_from_histogram,
)
from dlcv.export.precision.intermediates import Pixels, histograms, largest_values, noise_by_tensor
from dlcv.export.precision.nodes import activations, float_tensors, prepared_model
from dlcv.export.precision.search import NodeNoise
from dlcv.runtime.bundle.schema import VariantName
from dlcv.runtime.bundle.variants import is_narrow
from dlcv.runtime.errors import InputError

_COMPARED_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A graph in a lower precision.

    data: the ONNX file. gated: the graph that the gate runs: the same, or its rehearsal. how: a description for
    the report. converted: the nodes in the lower precision. kept: the nodes that stayed in fp32; for int8, only
    those that could be converted.
    """

    data: bytes
    gated: bytes
    how: str
    converted: tuple[str, ...]
    kept: tuple[str, ...]


class Maker:
    """Makes candidates that keep some nodes in fp32, and ranks the nodes of a candidate by noise."""

    def __init__(
        self,
        data: bytes,
        variant: VariantName,
        images: Sequence[Pixels],
        *,
        progress: Callable[[str], None],
    ) -> None:
        """Measure what the variant requires. data: the fp32 graph. images: uint8 (H, W, 3).

        Raises:
            InputError: the variant is fp32.
            BundleError: the graph cannot be converted.
        """
        self._data = data
        self._model = prepared_model(data)
        self._all, self._images = images, batches_of(images)
        self._progress = progress
        self._narrow = is_narrow(variant)
        self._build: Callable[[Collection[str]], Candidate]
        match variant:
            case "fp32":
                raise InputError("a bundle's own graph is fp32; give --to fp16, bf16 or int8")
            case "int8-cpu":
                self._build = self._built_for_cpu
            case "int8" | "int8-tensorrt":
                self._build = self._built_symmetric
                self._calibrate()
            case _:
                self._build = partial(self._built_half, variant)
                progress(f"measuring ranges on {len(images)} images")
                names = activations(self._model, float_tensors(self._model))
                self._ranges = largest_values(data, names, self._images)

    def build(self, keep: Collection[str]) -> Candidate:
        """Return the candidate that keeps the nodes `keep` in fp32.

        Raises:
            InputError: NNCF is not installed, or there is nothing to convert.
            BundleError: the graph cannot be converted.
        """
        return self._build(keep)

    def rank(self, candidate: Candidate) -> list[NodeNoise]:
        """Return the converted nodes by how much noise they add, worst first."""
        floats = float_tensors(self._model)
        nodes = {n.name: n for n in self._model.graph.node if n.name in candidate.converted}
        # NNCF drops Casts that change nothing.
        lower = onnx.load_from_string(candidate.gated).graph.node
        computed = set(activations(self._model, floats)) & {o for n in lower for o in n.output}
        wanted = {name for n in nodes.values() for name in (*n.input, *n.output)} & computed
        batches = self._images[:_COMPARED_BATCHES]
        noise = noise_by_tensor(
            self._data, candidate.gated, sorted(wanted), batches, narrow=self._narrow
        )
        entries = []
        for name, node in nodes.items():
            result = noise.get(node.output[0], 0.0)
            before = max((noise.get(tensor, 0.0) for tensor in node.input), default=0.0)
            entries.append(NodeNoise(node=name, noise=result, added=max(0.0, result - before)))
        return sorted(entries, key=lambda entry: -entry.added)

    def _built_half(self, precision: Half, keep: Collection[str]) -> Candidate:
        plan = half_plan(self._model, precision, ranges=self._ranges, keep=keep)
        return Candidate(
            data=half_model(self._model, plan),
            gated=rehearsal(self._model, plan),
            how=f"fp32 with every tensor of the {precision} nodes rounded to {precision}",
            converted=tuple(n.name for n in self._model.graph.node if n.name in plan.nodes),
            kept=kept_nodes(self._model, plan.nodes),
        )

    def _built_for_cpu(self, keep: Collection[str]) -> Candidate:
        self._progress(f"calibrating on {len(self._all)} images with NNCF")
        data = cpu_model(self._model, self._all, keep=keep)
        return Candidate(
            data=data,
            gated=data,
            how="int8 by NNCF",
            converted=tuple(converted_nodes(self._model, data)),
            kept=tuple(node.name for node in self._model.graph.node if node.name in keep),
        )

    def _built_symmetric(self, keep: Collection[str]) -> Candidate:
        data = quantised_model(self._model, self._thresholds[self._method], keep=keep)
        eligible = [node.name for node in quantisable_nodes(self._model)]
        return Candidate(
            data=data,
            gated=data,
            how=f"int8, activations clipped by {self._method}",
            converted=tuple(name for name in eligible if name not in keep),
            kept=tuple(name for name in eligible if name in keep),
        )

    def _calibrate(self) -> None:
        """Compute thresholds by every method, and choose the one with the least noise in the outputs."""
        names = list(dict.fromkeys(n.input[0] for n in quantisable_nodes(self._model)))
        if not names:
            raise InputError("the graph has no convolution or matrix product to quantise")
        self._progress(f"measuring ranges on {len(self._all)} images")
        largest = largest_values(self._data, names, self._images)
        self._progress("counting values")
        counts = histograms(self._data, largest, self._images)
        self._thresholds: dict[Method, dict[str, float]] = {
            method: {
                name: threshold_from_histogram(counts[name], largest[name], method=method)
                for name in names
            }
            for method in METHODS
        }
        self._method: Method = min(METHODS, key=self._output_noise)

    def _output_noise(self, method: Method) -> float:
        self._progress(f"trying thresholds by {method}")
        floats = float_tensors(self._model)
        outputs = [v.name for v in self._model.graph.output if v.name in floats]
        lower = quantised_model(self._model, self._thresholds[method])
        noise = noise_by_tensor(self._data, lower, outputs, self._images[:_COMPARED_BATCHES])
        return float(np.mean(list(noise.values())))
