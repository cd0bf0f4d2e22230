"""`dlcv-infer check`."""

from __future__ import annotations

import typer

from dlcv.cli.edge import EXIT_FAILED
from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say


def check(
    bundle: options.BundlePath,
    engine: options.EngineName = "auto",
    precision: options.PrecisionName = None,
    engine_option: options.EngineSetting = None,
    threads: options.Threads = None,
) -> None:
    """Replay a bundle's golden cases on an engine.

    Compares the answers with those that PyTorch gave when the bundle was exported.

    Exit code 0 when every output is within its tolerance, 1 when not.

    \b
    Examples:
      dlcv-infer check camvid-lraspp
      dlcv-infer check pets-vit --engine ort --threads 1
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.bundle.report import parity_table
    from dlcv.runtime.measure.check import replay_all

    opened = open_bundle(bundle)
    with loading(engine_option, threads=threads) as settings:
        comparison, ran = replay_all(opened, engine, precision=precision, options=settings)
    print("\n".join(parity_table(comparison.outputs)))
    for failure in comparison.failures:
        say(failure)
    cases = len(opened.manifest.golden)
    say(
        f"{opened.manifest.name} on {ran}: {'FAILED' if comparison.failures else 'passed'}, {cases} golden cases"
    )
    if comparison.failures:
        raise typer.Exit(EXIT_FAILED)
