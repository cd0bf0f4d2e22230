"""Writes bundles as a model repository for NVIDIA Triton Inference Server: one model a graph."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from dlcv.export.triton_config import (
    CONFIG_FILE,
    Backend,
    Device,
    TritonConfig,
    can_batch,
    files_of_dlcv,
    text_from_config,
)
from dlcv.export.triton_plans import TritonPlan, plan_for, plans_from_files
from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.contract import TASKS
from dlcv.runtime.bundle.schema import Precision, Target, TensorSpec
from dlcv.runtime.bundle.variants import variant_for
from dlcv.runtime.engines import EngineModel, engine_model
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE
from dlcv.runtime.errors import BundleError, InputError, OutputError
from dlcv.runtime.machine.atomic_files import replace_folder

LABELS_FILE: Final = "labels.txt"
_NAME_CHARACTERS = 40  # of a name that its temporary name keeps


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """How bundles become Triton models.

    precision: None means each bundle's default. outputs: the wanted ones of the graphs that have any of them; None
    means all. plans: files of TensorRT plans, for the backend tensorrt; without them the bundles' own are taken.
    batch: most images in one call; None means 8, or as many as the plan takes. device: None lets Triton choose.
    queue_delay_us: how long Triton may wait for a fuller batch, in microseconds. version: the models' version.
    overwrite: replace models that dlcv wrote.
    """

    backend: Backend = "onnxruntime"
    precision: Precision | None = None
    outputs: Collection[str] | None = None
    plans: Sequence[Path] = ()
    batch: int | None = None
    device: Device | None = None
    queue_delay_us: int = 0
    version: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.backend == "tensorrt" and self.device == "cpu":
            raise InputError("the backend tensorrt runs on a GPU; leave out --cpu")
        if self.backend != "tensorrt" and self.plans:
            raise InputError("a plan is for the backend tensorrt; add --backend tensorrt")
        if self.version < 1 or (self.batch or 1) < 1 or self.queue_delay_us < 0:
            raise InputError("version and batch must be 1 or more, and the queue delay 0 or more")


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model to write: its configuration, and its other files by their paths in its folder."""

    config: TritonConfig
    files: Mapping[str, bytes]


def triton_repository(
    bundles: Sequence[Bundle], repository: Path, *, options: TritonOptions | None = None
) -> tuple[Path, ...]:
    """Write a Triton model for each graph of the bundles, and return the models' folders.

    The graph that takes images is named as its bundle; a further graph, and both of a captioner, have the graph's
    name behind it. Each folder is written whole or not at all. Nothing is written if any model is refused. What lies
    in a replaced folder and is not of the version that is written stays.

    Raises:
        InputError: two models have one name, an option does not fit, or there is no plan for the backend tensorrt.
        BundleError: a bundle lacks the precision or an output.
        OutputError: a model's folder exists, or cannot be written.
    """
    options = options or TritonOptions()
    plans = plans_from_files(options.plans, bundles)
    models = [model for bundle in bundles for model in _models(bundle, options, plans=plans)]
    _require_different_names(model.config.name for model in models)
    _require_all_used(plans, models)
    for model in models:
        _require_free(repository / model.config.name, overwrite=options.overwrite)
    return tuple(_write(repository / model.config.name, model, options.version) for model in models)


def _models(bundle: Bundle, options: TritonOptions, *, plans: Sequence[TritonPlan]) -> list[_Model]:
    outputs = options.outputs
    existing = [spec.name for graph in bundle.manifest.graphs.values() for spec in graph.outputs]
    for name in outputs or ():
        if name not in existing:
            raise BundleError(
                f"bundle {bundle.manifest.name!r} ({bundle.manifest.task}) has no output {name!r}, only {', '.join(existing)}"
            )
    return [_model(bundle, graph, options, plans=plans) for graph in bundle.manifest.graphs]


def _model(
    bundle: Bundle, graph: str, options: TritonOptions, *, plans: Sequence[TritonPlan]
) -> _Model:
    required = TASKS[bundle.manifest.task].graphs[graph].required
    precision = options.precision if required else None  # as in the runtime
    target = _target(bundle, graph, options, precision=precision)
    described = bundle.graph(graph)
    outputs = (
        tuple(
            spec
            for spec in described.outputs
            if options.outputs is None or spec.name in options.outputs
        )
        or described.outputs
    )  # of a graph that has none of the wanted ones, all
    model = engine_model(
        bundle,
        graph=graph,
        precision=precision,
        outputs=None if outputs == described.outputs else [spec.name for spec in outputs],
        target=target,
    )
    plan = plan_for(bundle, graph, model, plans=plans) if options.backend == "tensorrt" else None
    variant = bundle.variant_name(precision, graph=graph, target=target)
    config = TritonConfig(
        name=_name(bundle, graph),
        backend=options.backend,
        inputs=described.inputs,
        outputs=tuple(map(_as_in_plans, outputs)) if plan else outputs,
        max_batch=_max_batch(described.inputs + outputs, options, plan=plan),
        preferred_batch=plan.batch.usual if plan else None,
        queue_delay_us=options.queue_delay_us,
        device="gpu" if plan else options.device,
        labels={spec.name: LABELS_FILE for spec in outputs if spec.name == "probabilities"},
        parameters=_parameters(bundle, graph, variant=variant, plan=plan),
    )
    return _Model(config=config, files=_files(bundle, config, model, plan=plan, options=options))


def _target(
    bundle: Bundle, graph: str, options: TritonOptions, *, precision: Precision | None
) -> Target:
    """Return what the graph will run on: it decides which int8 graph is taken."""
    if options.backend == "tensorrt" or options.device == "gpu":
        return "tensorrt"
    described = bundle.graph(graph)
    chosen = precision or described.default_precision
    targets: tuple[Target, Target] = ("cpu", "tensorrt")
    suited = {variant_for(described.variants, chosen, target=target) for target in targets}
    if options.device is None and len(suited) > 1:
        raise InputError(
            f"which {chosen} graph of {bundle.manifest.name!r} is the right one depends on the device; give --cpu or --gpu"
        )
    return "cpu"


def _as_in_plans(spec: TensorSpec) -> TensorSpec:
    """Return an output as a TensorRT plan gives it: there is no uint16."""
    return msgspec.structs.replace(spec, dtype="int32") if spec.dtype == "uint16" else spec


def _name(bundle: Bundle, graph: str) -> str:
    several = sum(contract.required for contract in TASKS[bundle.manifest.task].graphs.values()) > 1
    name = bundle.manifest.name
    return f"{name}-{graph}" if several or graph != bundle.manifest.main_graph else name


def _max_batch(
    specs: tuple[TensorSpec, ...], options: TritonOptions, *, plan: TritonPlan | None
) -> int:
    if not can_batch(specs):
        return 0
    if plan is None:
        return options.batch or DEFAULT_BATCH_SIZE
    if plan.batch.least > 1:
        raise InputError(
            f"{plan.source} takes batches from {plan.batch.least} on, and Triton's begin at 1; build it with --profile 1,OPT,MAX"
        )
    if (options.batch or 1) > plan.batch.most:
        raise InputError(
            f"{plan.source} takes batches of at most {plan.batch.most}, not {options.batch}; "
            "give a smaller --batch, or build it with a larger --profile MIN,OPT,MAX"
        )
    return options.batch or plan.batch.most


def _parameters(
    bundle: Bundle, graph: str, *, variant: str, plan: TritonPlan | None
) -> dict[str, str]:
    manifest = bundle.manifest
    parameters = {
        "dlcv.bundle": manifest.name,
        "dlcv.bundle_sha256": bundle.sha256,
        "dlcv.task": manifest.task,
        "dlcv.graph": graph,
        "dlcv.variant": variant,
        "dlcv.licence": manifest.licence,
    }
    if graph == manifest.main_graph:
        parameters["dlcv.preprocessing"] = _json(manifest.preprocessing)
    if manifest.task == "segment":  # labels.txt is of classifiers alone
        parameters["dlcv.classes"] = _json(manifest.classes)
    if manifest.classes:
        parameters["dlcv.activation"] = manifest.activation
    if manifest.threshold is not None:
        parameters["dlcv.threshold"] = str(manifest.threshold)
    if plan:
        parameters["dlcv.plan"] = _json(plan.fields)
    return parameters


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _files(
    bundle: Bundle,
    config: TritonConfig,
    model: EngineModel,
    *,
    plan: TritonPlan | None,
    options: TritonOptions,
) -> dict[str, bytes]:
    name, data = ("model.plan", plan.read()) if plan else ("model.onnx", model.onnx)
    files = {f"{options.version}/{name}": data}
    if config.labels:
        files[LABELS_FILE] = "".join(f"{c.name}\n" for c in bundle.manifest.classes).encode()
    tokenizer = bundle.manifest.tokenizer
    if tokenizer and config.parameters["dlcv.graph"] != bundle.manifest.main_graph:
        files["tokenizer.json"] = bundle.read(tokenizer)
    return files


def _require_different_names(names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                f"{count} of the models are named {name!r}, and a repository has one of each name; write them to two"
            )


def _require_all_used(plans: Sequence[TritonPlan], models: Sequence[_Model]) -> None:
    used = {hashlib.sha256(data).digest() for model in models for data in model.files.values()}
    for plan in plans:
        if hashlib.sha256(plan.read()).digest() not in used:
            raise InputError(
                f"{plan.source} was built from another graph than those that are written; "
                "build it with the same --precision and --outputs"
            )


def _require_free(folder: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise OutputError(
            f"{folder} exists; choose another repository, or give --overwrite, which keeps its other versions"
        )
    if files_of_dlcv(folder) is None:
        raise OutputError(
            f"{folder} is not a model that dlcv-export triton wrote; it will not be overwritten"
        )


def _write(folder: Path, model: _Model, version: int) -> Path:
    """Write a model to a temporary folder and rename it into place."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name[:_NAME_CHARACTERS]}-"
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            for name, data in model.files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(data)
            kept = _keep_other_files(folder, temporary, version=version)
            files = frozenset({CONFIG_FILE, *model.files, *kept})
            (temporary / CONFIG_FILE).write_text(text_from_config(model.config, files=files))
            temporary.chmod(0o755)
            replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as e:
        raise OutputError(f"cannot write the model {folder}: {e.strerror or e}") from e
    return folder


def _keep_other_files(old: Path, new: Path, *, version: int) -> set[str]:
    """Copy what an existing model's folder holds besides dlcv's files of this version; return which of it dlcv wrote.

    Raises:
        OutputError: a file that dlcv did not write has the name of a new one.
    """
    recorded = files_of_dlcv(old) or frozenset()
    replaced = {n for n in recorded if "/" not in n or n.startswith(f"{version}/")}
    kept = set()
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old).as_posix()
        if name in replaced or (path.is_dir() and not path.is_symlink()):
            continue
        if os.path.lexists(new / name):
            raise OutputError(f"{path} is in the way, and dlcv did not write it; move it away")
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, new / name, follow_symlinks=False)
        kept.add(name)
    return kept & recorded
