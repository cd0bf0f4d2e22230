"""TensorRT plans for Triton's backend tensorrt: from a bundle, or from files of `dlcv-export engine --out`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Plan
from dlcv.runtime.engines import EngineModel
from dlcv.runtime.engines.tensorrt.api import TENSORRT, TENSORRT_RTX
from dlcv.runtime.engines.tensorrt.optimization_profile import Range, profile_from_text
from dlcv.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TritonPlan:
    """A TensorRT plan. source: where it lies, for messages. fields: what it fits, as in a manifest. read: its bytes."""

    source: str
    graph_sha256: str
    fields: Mapping[str, str]
    read: Callable[[], bytes]

    @property
    def batch(self) -> Range:
        """The batches that it was built for."""
        return profile_from_text(self.fields["profile"]).ranges["batch"]


class _Note(msgspec.Struct, frozen=True):
    """What is needed of the .json beside a plan's file, as `engine_into_file` writes it."""

    graph_sha256: str
    plan_sha256: str
    fields: dict[str, str]


def plans_from_files(paths: Sequence[Path], bundles: Sequence[Bundle]) -> tuple[TritonPlan, ...]:
    """Return the plans of files: those with their .json beside them, and those in the bundles' `plans` folders.

    Raises:
        InputError: a file is missing or changed, is none of these, or is a plan of TensorRT-RTX.
    """
    inside = {Path(plan.source): plan for bundle in bundles for plan in _plans_of_bundle(bundle)}
    plans = tuple(inside.get(path.resolve()) or _plan_from_file(path) for path in paths)
    for plan in plans:
        if plan.fields.get("engine") != TENSORRT.name:
            raise InputError(
                f"{plan.source} is a plan of {plan.fields.get('engine')}, and Triton loads those of TensorRT; "
                "build it with dlcv-export engine --target trt"
            )
    return plans


def plan_for(
    bundle: Bundle, graph: str, model: EngineModel, *, plans: Sequence[TritonPlan]
) -> TritonPlan:
    """Return the plan of a graph: of `plans` the one that was built from it, else the bundle's only one.

    Raises:
        InputError: there is none, or only of TensorRT-RTX, or more than one.
    """
    sha256 = hashlib.sha256(model.onnx).hexdigest()
    own = [_plan_from_stored(bundle, stored.plan) for stored in model.plans]
    found = [plan for plan in plans if plan.graph_sha256 == sha256] or [
        plan for plan in own if plan.fields.get("engine") == TENSORRT.name
    ]
    if len(found) == 1:
        return found[0]
    words = f"graph {graph!r} of bundle {bundle.manifest.name!r}"
    if found:
        raise InputError(
            f"{words} has several plans ({'; '.join(map(_words, found))}); give the one to write with --plan"
        )
    fault = f"only plans of {TENSORRT_RTX.words}, which Triton does not load" if own else "no plan"
    further = "" if graph == bundle.manifest.main_graph else f" --graph {graph}"
    raise InputError(
        f"{words} has {fault}, in this precision and with these outputs; build one with "
        f"dlcv-export engine {bundle.path}{further} --target trt --into-bundle, or give --plan FILE"
    )


def _words(plan: TritonPlan) -> str:
    return f"{plan.source}: TensorRT {plan.fields.get('version')}, {plan.fields.get('device')}"


def _plans_of_bundle(bundle: Bundle) -> list[TritonPlan]:
    return [
        _plan_from_stored(bundle, plan)
        for graph in bundle.manifest.graphs.values()
        for variant in graph.variants.values()
        for plan in variant.plans
    ]


def _plan_from_stored(bundle: Bundle, plan: Plan) -> TritonPlan:
    return TritonPlan(
        source=str(bundle.path / plan.file),
        graph_sha256=plan.graph_sha256,
        fields={**plan.fields, "engine": plan.engine},
        read=partial(bundle.read, plan.file),
    )


def _plan_from_file(path: Path) -> TritonPlan:
    note = path.with_name(path.name + ".json")
    try:
        data = path.read_bytes()
        described = msgspec.json.decode(note.read_bytes(), type=_Note)
    except (OSError, msgspec.DecodeError) as e:
        raise InputError(
            f"cannot use the plan {path}: {e}; give one as dlcv-export engine --out writes it, with {note.name} beside it"
        ) from e
    if hashlib.sha256(data).hexdigest() != described.plan_sha256:
        raise InputError(f"{path} is not the plan that {note.name} describes; build it again")
    return TritonPlan(
        source=str(path),
        graph_sha256=described.graph_sha256,
        fields=described.fields,
        read=lambda: data,
    )
