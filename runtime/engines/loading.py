"""Loads a bundle's graph on an engine that was named."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.onnx_protobuf import model_with_outputs
from dlcv.runtime.bundle.schema import Precision, Target, precision_of
from dlcv.runtime.bundle.variants import is_narrow
from dlcv.runtime.engines.added import AddedEngine
from dlcv.runtime.engines.base import Engine, EngineModel, EngineOptions, StoredPlan, check_specs
from dlcv.runtime.engines.registry import ENGINES, engine_entry, why_unavailable
from dlcv.runtime.errors import BundleError, EngineUnavailableError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine, precision and options to run with. why: a sentence, where dlcv chose a lower precision than the bundle's own."""

    engine: str
    precision: Precision
    options: EngineOptions
    why: str = ""


def load_chosen(
    bundle: Bundle,
    choice: Choice,
    *,
    graph: str | None = None,
    outputs: Collection[str] | None = None,
    largest: tuple[int, int] | None = None,
) -> Engine:
    """Load a graph as it was chosen; see `load_engine`."""
    if reason := why_unavailable(choice.engine):
        raise EngineUnavailableError(reason)
    model = engine_model(
        bundle,
        graph=graph,
        precision=choice.precision,
        outputs=outputs,
        largest=largest,
        target=engine_entry(choice.engine).target,
    )
    engine = started(choice, model)
    try:
        check_specs(bundle.graph(graph), engine, source=model.source, outputs=outputs)
    except BundleError:
        engine.close()
        raise
    return engine


def started(choice: Choice, model: EngineModel) -> Engine:
    """Return the chosen engine with a model loaded."""
    entry = engine_entry(choice.engine)
    if choice.engine not in ENGINES:
        return AddedEngine(entry, model, options=choice.options, name=choice.engine)
    try:
        return entry.engine_class()(model, choice.options)
    except UnicodeDecodeError as e:  # engines hand names over as they are
        raise BundleError(
            f"{model.source}: the graph has a name that is not UTF-8 text; export it again"
        ) from e


def engine_model(
    bundle: Bundle,
    *,
    graph: str | None = None,
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    largest: tuple[int, int] | None = None,
    target: Target = "cpu",
) -> EngineModel:
    """Return the model that an engine loads from a bundle. Arguments are those of `load_engine`.

    target: of the engine's entry.

    Raises:
        BundleError: the bundle lacks the graph, the precision or an output.
    """
    name = bundle.variant_name(precision, graph=graph, target=target)
    variant = bundle.graph(graph).variants[name]
    model = bundle.read(variant.file)
    if outputs is not None:
        require_outputs(bundle, graph, outputs)
        model = model_with_outputs(model, outputs)
    sha256 = hashlib.sha256(model).hexdigest() if variant.plans else ""
    image = bundle.graph(graph).inputs[0]
    dynamic = image.name == "image" and isinstance(image.shape[1], str)
    preprocessing = bundle.manifest.preprocessing
    return EngineModel(
        onnx=model,
        tensors=bundle.graph(graph).inputs + bundle.graph(graph).outputs,
        precision=precision_of(name),
        narrow=is_narrow(name),
        source=f"{bundle.path}: {variant.file}",
        largest=(largest or preprocessing.size) if dynamic else None,
        multiple=preprocessing.multiple,
        plans=tuple(
            StoredPlan(plan=plan, read=partial(bundle.read, plan.file))
            for plan in variant.plans
            if plan.graph_sha256 == sha256
        ),
    )


def require_outputs(bundle: Bundle, graph: str | None, outputs: Collection[str]) -> None:
    """Check that a graph has outputs of these names.

    Raises:
        BundleError: it lacks one.
    """
    existing = [spec.name for spec in bundle.graph(graph).outputs]
    for name in outputs:
        if name not in existing:
            raise BundleError(
                f"bundle {bundle.manifest.name!r} ({bundle.manifest.task}) has no output {name!r}, "
                f"only {', '.join(existing)}; give another bundle with -m"
            )
