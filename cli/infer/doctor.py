"""`dlcv-infer doctor`."""

from __future__ import annotations

import typer

from dlcv.cli.edge import EXIT_FAILED


def doctor() -> None:
    """Say what works here and what is missing.

    Prints versions, GPU and driver, the cache, each engine with what it needs, and the built-in bundles.

    Exit code 1 when the default engine or a built-in bundle does not work.

    \b
    Example:
      dlcv-infer doctor
    """
    from dlcv.runtime.measure.doctor import builtin_trouble, doctor_lines

    print("\n".join(doctor_lines()))
    if builtin_trouble():
        raise typer.Exit(EXIT_FAILED)
