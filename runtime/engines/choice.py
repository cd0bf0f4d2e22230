"""What runs where the caller left it open: what a tuning found, or what was fastest on first use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines.base import Engine, EngineOptions
from dlcv.runtime.engines.first_use import Candidate, first_use, has_proved_half, proof_of
from dlcv.runtime.engines.loading import Choice, load_chosen
from dlcv.runtime.engines.registry import engine_versions, why_unavailable
from dlcv.runtime.engines.tuned import Row, arithmetic_of, stored_tuning, tuning_key
from dlcv.runtime.machine.system import cpu_count

GPU_ORDER = ("trt", "trt-rtx", "cuda")


def choose(
    bundle: Bundle,
    name: str,
    *,
    precision: Precision | None,
    options: EngineOptions,
    outputs: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Choice:
    """Choose the engine, precision and options where the caller left them open.

    `auto` takes the best result of this machine's tuning within what the caller fixed. Without a tuning it takes the first
    engine for a GPU that is available, or of those for CPUs, and of the precisions that the bundle proves, what a short
    measurement found fastest (`first_use`). A named engine runs with the given options and its own defaults.
    outputs: names of the wanted ones; None means all. without: engines that `auto` does not take, because they did not start.
    """
    default = precision or bundle.graph().default_precision
    if name != "auto":
        return Choice(engine=name, precision=default, options=options)
    row = _tuned(bundle, precision=precision, options=options)
    if row and row.engine not in without:
        found = Candidate(
            engine=row.engine, precision=row.precision, settings=row.settings, batch=row.batch
        )
        threads = options.threads if row.threads in (None, cpu_count()) else row.threads
        return _choice(
            bundle, found, replace(options, threads=threads), how="as tuned", proof=row.proof
        )
    gpus = (n for n in GPU_ORDER if n not in without and why_unavailable(n) is None)
    if gpu := next(gpus, None):
        if precision is None and has_proved_half(bundle, outputs):
            half = Candidate(engine=gpu, precision="fp16", settings={})
            return _choice(bundle, half, options, how="as on every GPU")
        return Choice(engine=gpu, precision=default, options=options)
    fastest = first_use(bundle, precision=precision, options=options, outputs=outputs)
    if fastest is None:
        return Choice(engine="ort", precision=default, options=options)
    return _choice(bundle, fastest, options, how="as measured on first use")


def _choice(
    bundle: Bundle, found: Candidate, options: EngineOptions, *, how: str, proof: str = ""
) -> Choice:
    """Return what was found as a choice. proof: of a tuning; empty: the bundle's records."""
    chosen = replace(
        options,
        batch_size=options.batch_size or found.batch,
        settings={**found.settings, **options.settings},
    )
    default, why = bundle.graph().default_precision, ""
    arithmetic = arithmetic_of(found.precision, found.settings)
    if arithmetic != default:
        proof = f" ({proof})" if proof else proof_of(bundle, found.precision, arithmetic)
        why = f"auto: {found.engine} in {arithmetic}{proof}, {how}; --precision {default} keeps full precision"
    return Choice(engine=found.engine, precision=found.precision, options=chosen, why=why)


def _tuned(bundle: Bundle, *, precision: Precision | None, options: EngineOptions) -> Row | None:
    if not tuning_key(bundle, {}).path.parent.is_dir():  # never tuned: skip the look-up of versions
        return None
    tuning, reason = stored_tuning(tuning_key(bundle, engine_versions()))
    if reason:
        options.on_progress(
            f"the tuning is not used, because {reason}; run dlcv-infer tune {bundle.path}", None
        )
    if tuning is None:
        return None
    row = tuning.best(precision, options)
    return row if row and why_unavailable(row.engine) is None else None


def load_engine(
    bundle: Bundle,
    name: str = "auto",
    *,
    graph: str | None = None,
    precision: Precision | None = None,
    outputs: Collection[str] | None = None,
    options: EngineOptions | None = None,
    largest: tuple[int, int] | None = None,
) -> Engine:
    """Load a graph of a bundle on an engine, and check its tensors against the manifest.

    graph: None means the one that takes images. outputs: names of the wanted outputs, None means all; nodes
    that only other outputs need are removed. largest: (height, width) of the largest images that a graph of
    dynamic size will get; None means the manifest's size. An engine asked for by name runs or raises.

    Raises:
        EngineUnavailableError: unknown, not installed, or not able to start here.
        EngineError: an engine of another package failed while it loaded.
        BundleError: the bundle lacks the graph or precision, or the graph is not what it says.
        InputError: an option does not fit the engine.
    """
    options = options or EngineOptions()
    choice = choose(bundle, name, precision=precision, options=options, outputs=outputs)
    return load_chosen(bundle, choice, graph=graph, outputs=outputs, largest=largest)
