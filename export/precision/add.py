"""Adds a lower precision to a bundle, if it passes its gates: parity, golden cases, accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from dlcv.export.gate import Run, pass_gate, runs_from
from dlcv.export.precision.candidates import Candidate, Maker
from dlcv.export.precision.cpu import require_nncf
from dlcv.export.precision.images import calibration_pixels, gate_batches_of
from dlcv.export.precision.intermediates import Pixels
from dlcv.export.precision.model_card import card_with_precisions
from dlcv.export.precision.search import search
from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.manifest import CARD_FILE, Manifest
from dlcv.runtime.bundle.schema import (
    Accuracy,
    FileEntry,
    ParityReport,
    Precision,
    Target,
    Variant,
    VariantName,
)
from dlcv.runtime.bundle.variants import is_narrow
from dlcv.runtime.engines import engine_entry, why_unavailable
from dlcv.runtime.engines.base import Arrays, Engine, EngineModel, EngineOptions, check_specs
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import InputError, OutputError, ParityError
from dlcv.runtime.evaluate.evaluation import Score, score
from dlcv.runtime.evaluate.labelled import LabelledImage, labelled_images
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.measure.parity import Comparison, worst
from dlcv.runtime.running.predictor import Predictor

_SCORED_OUTPUT = {"classify": "probabilities", "segment": "mask"}


def _silent(_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What to add to a bundle.

    target: what int8 is for, CPUs if None; other precisions have none. calibrate: images, folders or globs to
    measure ranges on; required for int8, otherwise dlcv's sample photos are the default. labelled: images with labels for the accuracy gate. budget: the largest allowed drop of
    top-1 or mean IoU, in 0..1. out: write a copy instead of changing the bundle. progress, warn: called with
    progress messages and with warnings.
    """

    precision: Precision
    target: Target | None = None
    calibrate: tuple[str, ...] = ()
    labelled: Path | None = None
    budget: float = 0.005
    out: Path | None = None
    progress: Callable[[str], None] = _silent
    warn: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        if not 0 <= self.budget < 1:
            raise InputError(f"a budget is a share from 0 to 1, not {self.budget}")
        if self.precision == "int8" and not self.calibrate:
            raise InputError(
                "int8 is calibrated on images like those to come; give --calibrate IMAGES"
            )
        if self.precision != "int8" and self.target is not None:
            raise InputError(
                f"--for is of int8 only: an {self.precision} graph is for all engines; leave it out"
            )

    @property
    def variant(self) -> VariantName:
        """The name of the variant to add."""
        if self.precision != "int8":
            return self.precision
        return "int8-tensorrt" if self.target == "tensorrt" else "int8-cpu"


def add_precision(path: str | Path, options: PrecisionOptions) -> Bundle:
    """Return the bundle with an added variant. Nothing is written unless every gate passes.

    Raises:
        BundleError: the bundle is damaged, or its graph cannot be converted.
        InputError: images or labels do not do, or NNCF is not installed.
        OutputError: the bundle may not be changed, or `out` exists.
        ParityError: the variant is too far from fp32, or less accurate than the budget allows.
    """
    bundle = open_bundle(path)
    bundle.require_one_graph("a lower precision")
    if options.variant == "int8-cpu":
        require_nncf()
    target = _target(bundle, options)
    gates = Gates(bundle, options)
    maker = Maker(
        bundle.read(bundle.variant("fp32").file),
        options.variant,
        gates.images,
        progress=options.progress,
    )
    candidate, (parity, accuracy) = search(
        maker.build, gates.passed, maker.rank, progress=options.progress
    )
    variant = Variant(
        file=f"model.{options.variant}.onnx",
        opset=_opset(candidate.data),
        parity=parity,
        kept=candidate.kept,
        accuracy=accuracy,
    )
    return _saved(bundle, target, variant=variant, name=options.variant, data=candidate.data)


class Gates:
    """The checks of a candidate: parity with the fp32 graph, the golden cases, and the accuracy budget."""

    def __init__(self, bundle: Bundle, options: PrecisionOptions) -> None:
        """Read images and labels, and run the fp32 graph on them."""
        self._bundle, self._options = bundle, options
        preprocessing = bundle.manifest.preprocessing
        if options.calibrate:
            self.images = calibration_pixels(options.calibrate, preprocessing, warn=options.warn)
            self._words = f"{len(self.images)} images given for calibration"
        else:
            self.images = [load_pixels(path, preprocessing).pixels for path in sample_paths()]
            self._words = "the sample photos of dlcv"
        self._labelled = self._read_labelled()
        options.progress("asking the fp32 graph for the answers")
        exact = bundle.read(bundle.variant("fp32").file)
        with OrtEngine(EngineModel(onnx=exact), EngineOptions()) as engine:
            self._reference = str(engine.info)

            def answers(image: Pixels) -> Arrays:
                return engine.infer({"image": image})

            self._runs = [*runs_from(answers, gate_batches_of(self.images)), *_golden_runs(bundle)]
        self._engines = _gate_engines(options.variant)
        if options.variant == "int8-cpu" and len(self._engines) == 1:
            options.warn(
                "OpenVINO is not installed, so the gate runs on ONNX Runtime only; get it with pip install 'dlcv[openvino]'"
            )
        self._baseline = self._scored("ort", EngineModel(onnx=exact)) if self._labelled else None

    def passed(self, candidate: Candidate) -> tuple[ParityReport, Accuracy | None]:
        """Check a candidate on each engine of the gate and return the measurements: of several engines, the worst.

        Raises:
            ParityError: out of tolerance, or over the budget.
            BundleError: an engine cannot load it.
        """
        options = self._options
        model = EngineModel(
            onnx=candidate.gated,
            tensors=self._bundle.graph().inputs + self._bundle.graph().outputs,
            precision=options.precision,
            narrow=is_narrow(options.variant),
        )
        reports = [self._parity(name, model) for name in self._engines]
        ran = " and ".join(report.engine for report in reports)
        report = msgspec.structs.replace(
            reports[0],
            engine=f"{ran}, {candidate.how}",
            outputs=worst([Comparison(outputs=r.outputs, failures=()) for r in reports]).outputs,
        )
        return report, self._within_budget(model)

    def _parity(self, name: str, model: EngineModel) -> ParityReport:
        words = f"the {self._options.precision} graph"
        with _loaded(name, model) as engine:
            check_specs(self._bundle.graph(), engine, source=words)
            report = pass_gate(
                self._runs,
                engine,
                reference=f"{self._reference}, and PyTorch in the golden cases",
                images=f"some of {self._words}, and the golden cases",
                threshold=self._bundle.manifest.threshold,
            )
            info = engine.info
        return msgspec.structs.replace(report, engine=f"{info.name} {info.version} {info.device}")

    def _within_budget(self, model: EngineModel) -> Accuracy | None:
        if self._baseline is None or self._options.labelled is None:
            return None
        before, budget = self._baseline, self._options.budget
        scores = {name: self._scored(name, model) for name in self._engines}
        name = min(scores, key=lambda engine: scores[engine].value)
        now = scores[name]
        if before.value - now.value > budget:
            raise ParityError(
                f"{now.metric} falls from {before.value:.4f} to {now.value:.4f} on {now.images} images (engine {name}), "
                f"by {100 * (before.value - now.value):.2f} points; the budget is {100 * budget:g}; "
                "nothing was written"
            )
        return Accuracy(
            metric=now.metric,
            value=now.value,
            baseline=before.value,
            budget=budget,
            data=self._options.labelled.name,
            images=now.images,
        )

    def _read_labelled(self) -> list[LabelledImage]:
        manifest = self._bundle.manifest
        if self._options.labelled is None:
            return []
        names = [c.name for c in manifest.classes]
        return labelled_images(self._options.labelled, task=manifest.task, classes=names)

    def _scored(self, name: str, model: EngineModel) -> Score:
        self._options.progress(
            f"scoring {model.precision} on {len(self._labelled)} labelled images, engine {name}"
        )
        with Predictor(self._bundle, _loaded(name, model)) as predictor:
            found = score(predictor, self._labelled)
        self._options.progress(f"{found}, {model.precision} on engine {name}")
        return found


def _gate_engines(variant: VariantName) -> tuple[str, ...]:
    """Return the engines that a variant is tried on. The CPU's execute int8 each in its own way."""
    both = variant == "int8-cpu" and why_unavailable("openvino") is None
    return ("ort", "openvino") if both else ("ort",)


def _loaded(name: str, model: EngineModel) -> Engine:
    settings = {"cache": "false"} if name == "openvino" else {}  # candidates come and go
    return engine_entry(name).engine_class()(model, EngineOptions(settings=settings))


def _golden_runs(bundle: Bundle) -> list[Run]:
    return [
        Run(name=f"golden case {case.name}", feeds=case.inputs, expected=case.outputs)
        for case in bundle.golden()
    ]


def _target(bundle: Bundle, options: PrecisionOptions) -> Path:
    """Return the folder to write to, checked before the work."""
    if options.out is not None:
        if options.out.exists():
            raise OutputError(f"{options.out} exists; choose another name")
        return options.out
    if bundle.ships_with_dlcv:
        raise OutputError(
            "a bundle that ships with dlcv is not changed; write a copy with -o FOLDER"
        )
    return bundle.path


def _opset(data: bytes) -> int:
    imports = onnx.load_from_string(data).opset_import
    return next(int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx"))


def _saved(
    bundle: Bundle, target: Path, *, variant: Variant, name: VariantName, data: bytes
) -> Bundle:
    """Write the bundle with the variant. Compiled engines of a replaced variant are removed."""
    manifest = bundle.manifest
    graph = bundle.graph()
    replaced = graph.variants.get(name)
    stale = {plan.file for plan in replaced.plans} if replaced else set()
    files = {name: bundle.read(name) for name in manifest.files if name not in stale}
    files[variant.file] = data
    new_graph = msgspec.structs.replace(graph, variants={**graph.variants, name: variant})
    manifest = msgspec.structs.replace(
        manifest, graphs={**manifest.graphs, "model": new_graph}, files=_entries(files)
    )
    card = card_with_precisions(files.get(CARD_FILE, b"").decode(), manifest)
    files[CARD_FILE] = card.encode()
    return save_bundle(target, _with(manifest, files), files=files, overwrite=True)


def _entries(files: dict[str, bytes]) -> dict[str, FileEntry]:
    return {name: FileEntry(sha256="0" * 64, size_bytes=len(data)) for name, data in files.items()}


def _with(manifest: Manifest, files: dict[str, bytes]) -> Manifest:
    return msgspec.structs.replace(manifest, files=_entries(files))
