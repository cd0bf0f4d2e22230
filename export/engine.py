"""Builds engines ahead of time, into the cache, a bundle or a file."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dlcv.runtime.bundle import Bundle, save_bundle
from dlcv.runtime.bundle.manifest import Manifest
from dlcv.runtime.bundle.schema import FileEntry, Graph, Plan, Precision, Target, VariantName
from dlcv.runtime.engines import EngineOptions, engine_model, why_unavailable
from dlcv.runtime.engines.tensorrt.api import TENSORRT, TENSORRT_RTX, require_gpu
from dlcv.runtime.engines.tensorrt.build import BuildRequest, BuiltPlan, plan_from_graph
from dlcv.runtime.engines.tensorrt.engine import build_request
from dlcv.runtime.engines.tensorrt.plans import plan_key
from dlcv.runtime.errors import EngineUnavailableError, InputError, OutputError
from dlcv.runtime.machine.cache import store
from dlcv.runtime.machine.gpu import Gpu, driver
from dlcv.runtime.machine.system import is_importable

TARGETS = {"trt": TENSORRT, "rtx": TENSORRT_RTX}
_TARGET: Target = "tensorrt"  # of int8 graphs, this one's


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """What to build.

    target: "trt" or "rtx". graph: None means the one that takes images. outputs: the wanted ones; None means
    all. largest: (height, width) for a graph of dynamic size; None means the manifest's. options: as for
    `load_engine`, which would build the same plan.
    """

    target: str
    graph: str | None = None
    precision: Precision | None = None
    outputs: Collection[str] | None = None
    largest: tuple[int, int] | None = None
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, kw_only=True)
class MadeEngine:
    """A built plan, what it was built for, and its location."""

    request: BuildRequest
    plan: BuiltPlan
    path: Path


def engine_into_cache(bundle: Bundle, build: EngineBuild) -> MadeEngine:
    """Build an engine and store it where `load_engine` finds it.

    Raises:
        EngineUnavailableError: TensorRT is not installed, or needs a GPU that is not here.
        BundleError: the graph does not suit TensorRT.
        OutputError: the cache cannot be written.
    """
    request = _request(bundle, build)
    plan = plan_from_graph(request)
    key = plan_key(request)
    store(key, plan.data)
    return MadeEngine(request=request, plan=plan, path=key.path)


def engine_into_file(bundle: Bundle, build: EngineBuild, *, out: Path) -> MadeEngine:
    """Build an engine and write the bare plan, as trtexec reads it, and a .json that says what it fits.

    Raises:
        as `engine_into_cache`.
        OutputError: a file exists, or cannot be written.
    """
    note = out.with_name(out.name + ".json")
    for path in (out, note):
        if path.exists():
            raise OutputError(f"{path} exists; choose another name")
    request = _request(bundle, build)
    plan = plan_from_graph(request)
    described = {
        "bundle": bundle.manifest.name,
        "graph_sha256": hashlib.sha256(request.model.onnx).hexdigest(),
        "plan_sha256": hashlib.sha256(plan.data).hexdigest(),
        "compute_layers": plan.shares,
        "fields": request.fields,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(note, json.dumps(described, indent=2).encode() + b"\n")
        _write_whole(out, plan.data)
    except OSError as e:
        raise OutputError(f"cannot write the engine {out}: {e.strerror or e}") from e
    return MadeEngine(request=request, plan=plan, path=out)


def engine_into_bundle(bundle: Bundle, build: EngineBuild) -> MadeEngine:
    """Build an engine and write the bundle again with it, atomically.

    An existing plan for the same graph and fields is replaced.

    Raises:
        as `engine_into_cache`.
        InputError: the bundle ships with dlcv.
        OutputError: the bundle cannot be written.
    """
    if bundle.ships_with_dlcv:
        raise InputError(
            f"{bundle.manifest.name} ships with dlcv and stays as it is; copy {bundle.path} and name the copy"
        )
    request = _request(bundle, build)
    plan = plan_from_graph(request)
    data = plan.data
    sha256 = hashlib.sha256(data).hexdigest()
    entry = Plan(
        file=f"plans/{request.flavour.name}-{sha256[:16]}.plan",
        engine=request.flavour.name,
        graph_sha256=hashlib.sha256(request.model.onnx).hexdigest(),
        fields=request.fields,
    )
    graphs = _graphs_with_plan(
        bundle.manifest,
        entry,
        graph=build.graph or bundle.manifest.main_graph,
        variant=bundle.variant_name(build.precision, graph=build.graph, target=_TARGET),
    )
    used = {plan.file for g in graphs.values() for v in g.variants.values() for plan in v.plans}
    files = {
        name: bundle.read(name)
        for name in bundle.manifest.files
        if not name.startswith("plans/") or name in used - {entry.file}
    }
    files[entry.file] = data
    sizes = {name: FileEntry(sha256="0" * 64, size_bytes=len(raw)) for name, raw in files.items()}
    # save_bundle fills in the hashes.
    manifest = msgspec.structs.replace(bundle.manifest, graphs=graphs, files=sizes)
    saved = save_bundle(bundle.path, manifest, files=files, overwrite=True)
    return MadeEngine(request=request, plan=plan, path=saved.path / entry.file)


def largest_sides(bundle: Bundle, longest_side: int | None) -> tuple[int, int] | None:
    """Return the (height, width) of the largest images for a longest side, as `dlcv-infer --size` makes them.

    Raises:
        InputError: the bundle's graph has a fixed size.
    """
    if longest_side is None:
        return None
    preprocessing = bundle.manifest.preprocessing
    if preprocessing.resize != "longest_side":
        height, width = preprocessing.size
        raise InputError(
            f"bundle {bundle.manifest.name!r} runs at {height}x{width} only; leave out --size"
        )
    side = max(1, round(longest_side / preprocessing.multiple)) * preprocessing.multiple
    return (side, side)


def _request(bundle: Bundle, build: EngineBuild) -> BuildRequest:
    flavour = TARGETS[build.target]
    number = build.options.settings.get("device", "0")
    if flavour.portable:
        gpu: Gpu | None = next((g for g in driver().gpus if str(g.index) == number), None)
        if not is_importable(flavour.module):
            raise EngineUnavailableError(
                f"{flavour.words} is not installed; get it with pip install 'dlcv[rtx]'"
            )
    else:
        if reason := why_unavailable(flavour.name):
            raise EngineUnavailableError(reason)
        gpu = require_gpu(driver(), int(number) if number.isdecimal() else 0, flavour=flavour)
    model = engine_model(
        bundle,
        graph=build.graph,
        precision=build.precision,
        outputs=build.outputs,
        largest=build.largest,
        target=_TARGET,
    )
    return build_request(flavour, model, build.options, gpu=gpu)


def _graphs_with_plan(
    manifest: Manifest, entry: Plan, *, graph: str, variant: VariantName
) -> dict[str, Graph]:
    described = manifest.graphs[graph]
    changed = described.variants[variant]
    kept = tuple(
        plan
        for plan in changed.plans
        if (plan.engine, plan.graph_sha256, plan.fields)
        != (entry.engine, entry.graph_sha256, entry.fields)
    )
    replace = msgspec.structs.replace
    variants = {**described.variants, variant: replace(changed, plans=(*kept, entry))}
    return {**manifest.graphs, graph: replace(described, variants=variants)}


def _write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary name and rename, so that nobody sees a partial file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
