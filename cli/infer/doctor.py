"""`dlcv-infer doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcv.cli.edge import EXIT_FAILED


def doctor(
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Load a small bundle on each engine that is available, replay its golden cases and time it; about a minute.",
        ),
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="With --prove: this engine; may be given again."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="With --prove: also write what was found as JSON."),
    ] = None,
) -> None:
    """Say what works here and what is missing.

    Prints versions, GPU and driver, the cache, each engine with what it needs, and the built-in bundles.

    Exit code 1 when the default engine or a built-in bundle does not work, or with --prove an engine that is available.

    \b
    Examples:
      dlcv-infer doctor
      dlcv-infer doctor --prove
      dlcv-infer doctor --prove --engine trt --engine cuda --json proof.json
    """
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.measure.doctor import builtin_trouble, doctor_lines

    if not prove and (engine or json):
        raise InputError("--engine and --json are for --prove; give it too, or leave them out")
    print("\n".join(doctor_lines()))
    works = not builtin_trouble()
    if prove:
        works = _proved(engine or [], json) and works
    if not works:
        raise typer.Exit(EXIT_FAILED)


def _proved(engines: list[str], file: Path | None) -> bool:
    """Prove the engines and print a table; return whether all that are available work."""
    import msgspec

    from dlcv.cli.infer.task import say
    from dlcv.runtime.bundle import BUILTIN, open_bundle
    from dlcv.runtime.bundle.report import table
    from dlcv.runtime.machine.atomic_files import output_error
    from dlcv.runtime.measure.prove import proof_lines, prove

    proofs = prove(open_bundle(BUILTIN["classify"]), engines=engines, tell=say)
    print("\n" + "\n".join(table(proof_lines(proofs))))
    if file is not None:
        try:
            file.write_bytes(msgspec.json.format(msgspec.json.encode(proofs)) + b"\n")
        except OSError as e:
            raise output_error(file, e) from e
    return all(proof.works for proof in proofs if proof.is_available)
