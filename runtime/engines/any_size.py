"""Loads the graph of a bundle that resizes by itself: one photo goes in as it was decoded and oriented."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.any_size import LARGEST_PHOTO, any_size_tensors
from dlcv.runtime.bundle.onnx_protobuf import model_with_outputs
from dlcv.runtime.bundle.schema import AnySize, Target, precision_of
from dlcv.runtime.bundle.variants import is_narrow, variant_for
from dlcv.runtime.engines.base import Engine, EngineModel, EngineOptions, check_specs
from dlcv.runtime.engines.choice import GPU_ORDER
from dlcv.runtime.engines.loading import Choice, require_outputs, started
from dlcv.runtime.engines.registry import engine_entry, why_unavailable
from dlcv.runtime.errors import BundleError, DlcvError, EngineUnavailableError, InputError


def load_any_size(
    bundle: Bundle,
    name: str = "auto",
    *,
    outputs: Collection[str] | None = None,
    options: EngineOptions | None = None,
    largest: tuple[int, int] | None = None,
) -> Engine:
    """Load the any-size graph of a bundle on an engine, and check its tensors.

    Its input is `image`, uint8 (1, height, width, channels): a photo as decoded and oriented, of any size. Its outputs are
    those of the bundle's graph, of a batch of 1.

    name: of an engine; `auto` is the first one for a GPU, or `ort`. outputs: names of the wanted ones, None means all.
    largest: (height, width) of the largest photos to expect, for engines that are compiled for shapes; 4096x4096 by default.

    Raises:
        EngineUnavailableError: unknown, not installed, or not able to start here.
        EngineError: an engine of another package failed while it loaded.
        BundleError: the bundle has no such graph, or not for this engine, or the graph is not what it says.
        InputError: an option does not fit the engine, or would compute the resize in lower precision.
    """
    if name == "auto":
        name = next((n for n in GPU_ORDER if why_unavailable(n) is None), "ort")
    if reason := why_unavailable(name):
        raise EngineUnavailableError(reason)
    target = engine_entry(name).target
    model = any_size_model(bundle, outputs=outputs, largest=largest, target=target)
    choice = Choice(
        engine=name,
        precision=model.precision,
        options=replace(options or EngineOptions(), batch_size=1),
    )
    engine = started(choice, model)
    try:
        _require_exact(engine, model)
        described = any_size_tensors(bundle.graph())
        check_specs(described, engine, source=model.source, outputs=outputs)
    except DlcvError:
        engine.close()
        raise
    return engine


def any_size_model(
    bundle: Bundle,
    *,
    outputs: Collection[str] | None = None,
    largest: tuple[int, int] | None = None,
    target: Target = "cpu",
) -> EngineModel:
    """Return the any-size graph of a bundle as engines load it. Arguments are those of `load_any_size`.

    target: of the engine's entry.

    Raises:
        BundleError: the bundle has no such graph, or not for the target, or lacks an output.
    """
    made = _required(bundle, target)
    model = bundle.read(made.file)
    if outputs is not None:
        require_outputs(bundle, None, outputs)
        model = model_with_outputs(model, outputs)
    described = any_size_tensors(bundle.graph())
    return EngineModel(
        onnx=model,
        tensors=described.inputs + described.outputs,
        precision=precision_of(made.variant),
        narrow=is_narrow(made.variant),
        source=f"{bundle.path}: {made.file}",
        largest=largest or LARGEST_PHOTO,
    )


def _required(bundle: Bundle, target: Target) -> AnySize:
    made, name = bundle.graph().any_size, bundle.manifest.name
    if made is None:
        raise BundleError(
            f"bundle {name!r} has no any-size graph; add one with dlcv-export any-size {bundle.path}"
        )
    if variant_for([made.variant], precision_of(made.variant), target=target) is None:
        raise BundleError(
            f"the any-size graph of bundle {name!r} is {made.variant}, whose zero points TensorRT refuses; "
            "run it on --engine ort or openvino"
        )
    return made


def _require_exact(engine: Engine, model: EngineModel) -> None:
    """Refuse lower arithmetic than the graph's: its resize would be off by more than 1 of 255."""
    if engine.info.precision != model.precision:
        raise InputError(
            f"{model.source} is {model.precision} and its resize needs that, but {engine.info} computes in "
            f"{engine.info.precision}; leave out the setting that lowers it"
        )
