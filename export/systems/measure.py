"""Records a run: exports its bundle, scores checkpoint and bundle on the same images, builds engines."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlcv.export.bundle import export_bundle
from dlcv.export.engine import EngineBuild, engine_into_file
from dlcv.export.sources import ExportSource, SourceOptions, load_source
from dlcv.export.systems.history import training_from_run
from dlcv.export.systems.records import (
    Built,
    Exported,
    Ran,
    Record,
)
from dlcv.export.systems.scoring import Scoring, scoring_of
from dlcv.export.systems.untrained import START, untrained_source
from dlcv.export.writing import BundleOptions, require_writable
from dlcv.runtime.bundle import MANIFEST, Bundle
from dlcv.runtime.engines import ENGINES, EngineOptions, engine_versions, why_unavailable
from dlcv.runtime.machine.system import installed_version, is_importable, machine_name
from dlcv.runtime.running.predictor import load
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.plan import start_words
from dlcv.train.recipe import RunRecipe, load_recipe


def _silent(_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """How to record a run.

    bundle: where to write the bundle; None means RUN/bundle, or a temporary place for an untrained recipe.
    overwrite: replace an existing bundle. minutes: of training, instead of those from the run's files. note: a
    sentence on the training. threads: of the engines. progress: called with progress messages.
    """

    bundle: Path | None = None
    overwrite: bool = False
    minutes: float | None = None
    note: str = ""
    threads: int | None = None
    progress: Callable[[str], None] = _silent


def record_run(run: Path, root: Path, options: RecordOptions | None = None) -> Record:
    """Return the record of a finished run. Its bundle is kept, with the scores in its manifest.

    root: the data root.

    Raises:
        RecipeError: no checkpoint, or its data are missing.
        ParityError: the bundle does not give what the checkpoint gives.
        OutputError: a bundle is there and may not be replaced.
    """
    options = options or RecordOptions()
    out = options.bundle or run / "bundle"
    require_writable(out, overwrite=options.overwrite)
    checkpoint = load_checkpoint(run)
    scoring = scoring_of(checkpoint, root)  # report missing data before the work
    training = training_from_run(checkpoint, minutes=options.minutes, note=options.note)
    source = load_source(str(run), SourceOptions())
    bundle, exported = _exported(source, out, options)
    built = _built(bundle, options)
    options.progress("scoring the checkpoint")
    scores = scoring.of_checkpoint()
    ran = _ran(bundle, scoring, options)
    return Record(
        **_facts(checkpoint.recipe, source),
        start=start_words(checkpoint.recipe),
        training=training,
        checkpoint=scores,
        exported=exported,
        ran=ran,
        built=built,
    )


def record_untrained(name: str, options: RecordOptions | None = None) -> Record:
    """Return the record of a recipe without training: exported and built at full size with random weights.

    name: of a built-in recipe, or a file.

    Raises:
        RecipeError: no such recipe.
        ParityError: the bundle does not give what PyTorch gives.
    """
    options = options or RecordOptions()
    recipe = load_recipe(name)
    with tempfile.TemporaryDirectory(prefix="dlcv-record-") as folder:
        options.progress("making random weights")
        source = untrained_source(recipe, Path(folder) / "checkpoint")
        out = options.bundle or Path(folder) / "bundle"
        bundle, exported = _exported(source, out, options)
        built = _built(bundle, options)
    return Record(
        **_facts(recipe, source),
        start=START,
        training=None,
        checkpoint=None,
        exported=exported,
        ran=(),
        built=built,
    )


def _exported(source: ExportSource, out: Path, options: RecordOptions) -> tuple[Bundle, Exported]:
    start = time.perf_counter()
    settings = BundleOptions(overwrite=options.overwrite, progress=options.progress)
    bundle = export_bundle(source, out, settings)
    sizes = [entry.size_bytes for entry in bundle.manifest.files.values()]
    return bundle, Exported(
        size_bytes=sum(sizes) + (bundle.path / MANIFEST).stat().st_size,
        seconds=round(time.perf_counter() - start, 1),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux: in KiB
        parity=bundle.variant().parity,
        further={
            name: bundle.variant(graph=name).parity
            for name in bundle.manifest.graphs
            if name != bundle.manifest.main_graph
        },
    )


def _built(bundle: Bundle, options: RecordOptions) -> tuple[Built, ...]:
    """Build the engines that can be built without a GPU, if TensorRT-RTX is installed."""
    if not is_importable("tensorrt_rtx"):
        options.progress("TensorRT-RTX is not installed: no engine is built")
        return ()
    options.progress("building an engine with TensorRT-RTX")
    with tempfile.TemporaryDirectory(prefix="dlcv-record-") as folder:
        return tuple(
            _built_graph(bundle, graph, Path(folder) / graph) for graph in bundle.manifest.graphs
        )


def _built_graph(bundle: Bundle, graph: str, out: Path) -> Built:
    made = engine_into_file(bundle, EngineBuild(target="rtx", graph=graph), out=out)
    return Built(
        engine=made.request.flavour.name,
        version=made.request.fields["version"],
        graph=graph,
        precision=made.plan.precision,
        profile=made.request.fields["profile"],
        seconds=round(made.plan.seconds, 1),
        size_bytes=len(made.plan.data),
    )


def _ran(bundle: Bundle, scoring: Scoring[Any], options: RecordOptions) -> tuple[Ran, ...]:
    """Score a bundle on every engine that runs here, and record the scores in its manifest where possible."""
    ran = []
    for name in (name for name in ENGINES if why_unavailable(name) is None):
        options.progress(f"scoring the bundle on {name}")
        settings = EngineOptions(threads=options.threads)
        with load(bundle, engine=name, outputs=scoring.outputs, options=settings) as predictor:
            scores, agreement = scoring.of_bundle(predictor)
        info = predictor.engine.info
        ran.append(
            Ran(
                engine=name,
                version=info.version,
                device=info.device,
                precision=info.precision,
                scores=scores,
                agreement=agreement,
            )
        )
        bundle = scoring.kept(bundle)
    return tuple(ran)


def _facts(recipe: RunRecipe, source: ExportSource) -> dict[str, Any]:
    """Return the fields of a record that need no measurement."""
    libraries = {name: installed_version(name) for name in ("dlcv", "torch")}
    versions = {name: version for name, version in libraries.items() if version}
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "task": source.task,
        "network": recipe.model.name,
        "parameters": sum(p.numel() for p in source.model.parameters()),
        "data": recipe.data_note,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_name(),
        "versions": versions | engine_versions(),
        "commands": (*source.remake[:-1], f"{source.remake[-1]} -o bundles/{recipe.name}"),
    }
