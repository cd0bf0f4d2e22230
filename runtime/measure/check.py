"""Checks all graphs of a bundle against their golden cases, on one engine."""

from __future__ import annotations

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.base import EngineInfo, EngineOptions
from dlcv.runtime.measure.parity import Comparison, replay_golden, worst


def replay_all(
    bundle: Bundle, engine: str, *, precision: Precision | None, options: EngineOptions
) -> tuple[Comparison, EngineInfo]:
    """Replay every graph's golden cases. Return the comparison and what ran.

    precision: of the graph that takes images; other graphs run in the precision in which they were exported.

    Raises:
        BundleError: a graph or golden file is not what the manifest says.
        EngineUnavailableError: the engine is unknown, not installed, or cannot start here.
    """
    with load_engine(bundle, engine, precision=precision, options=options) as loaded:
        info = loaded.info
        comparisons = [replay_golden(bundle, loaded)]
    for name, graph in bundle.manifest.graphs.items():
        if name != bundle.manifest.main_graph:
            chosen = graph.default_precision
            with load_engine(
                bundle, info.name, graph=name, precision=chosen, options=options
            ) as beside:
                comparisons.append(replay_golden(bundle, beside, graph=name))
    return worst(comparisons), info
