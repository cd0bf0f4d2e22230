"""`dlcv-export record`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcv.cli.export import options

if TYPE_CHECKING:
    from dlcv.export.systems.records import Record


def record(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Checkpoint folder; with --untrained a recipe's name or file."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Random weights: show that the network can be run.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of records; the file is RECIPE.json.")
    ] = Path("docs/runs"),
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Where the bundle goes; without it RUN/bundle, of --untrained nowhere that stays."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Training took this long; without it, by the run's files."),
    ] = None,
    note: Annotated[str, typer.Option(help="A sentence about the training, for readers.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Record a finished run from checkpoint to engines, as JSON for a report.

    Exports the bundle through the parity gate, builds its TensorRT-RTX engine, scores the checkpoint, and scores
    the bundle over the whole test set on every engine that runs here, also into its manifest. Prints the file's
    path. docs/systems.md is made of such records (make systems).

    \b
    Examples:
      dlcv-export record runs/cifar10-net2 --data ~/data --note "One thread."
      dlcv-export record deepglobe-fcn4s --untrained
    """
    options.require_extra()
    import torch

    from dlcv.export.systems.measure import RecordOptions, record_run, record_untrained
    from dlcv.export.systems.records import save_record
    from dlcv.train.recipe import data_root

    if threads is not None:
        torch.set_num_threads(threads)
    settings = RecordOptions(
        bundle=bundle,
        overwrite=overwrite,
        minutes=minutes,
        note=note,
        threads=threads,
        progress=options.tell,
    )
    if untrained:
        made = record_untrained(run, settings)
    else:
        made = record_run(Path(run), data_root(data), settings)
    print("\n".join(_report(made)), file=sys.stderr)
    print(save_record(out, made))


def _report(made: Record) -> list[str]:
    exported = made.exported
    differences = [f"{n} {p.max_difference:.1e}" for n, p in exported.outputs.items()]
    lines = [
        f"bundle: {exported.size_bytes / 1e6:.1f} MB; differences from PyTorch: {', '.join(differences)}",
        *(
            f"{b.engine}: {b.graph} built in {b.seconds:.1f} s, {b.size_bytes / 1e6:.1f} MB"
            for b in made.built
        ),
    ]
    if made.checkpoint:
        lines.append(f"checkpoint: {made.checkpoint.metric} {made.checkpoint.value:.4f}")
    return lines + [f"{r.engine}: {r.scores.metric} {r.scores.value:.4f}" for r in made.ran]
