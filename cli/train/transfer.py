"""`dlcv-train transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def transfer(
    family: Annotated[
        str,
        typer.Argument(
            metavar="FAMILY", help="Name of five recipes less -a to -e: cifar10-transfer, say."
        ),
    ],
    supervised: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Run or weights file that settings B and D start from."),
    ] = None,
    byol: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Run or weights file that settings C and E start from."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the five runs; without it, runs/FAMILY.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, PyTorch decides.")
    ] = None,
) -> None:
    """Train one task from five starts and print the table: what is pre-training worth?

    A no pre-training; B supervised and C BYOL backbone, all layers learn; D supervised and E BYOL backbone,
    frozen. Started again, it goes on where it was; the table is OUT/transfer.json too.

    \b
    Examples:
      dlcv-train transfer cifar10-transfer --supervised runs/cifar50-resnet20 --byol runs/cifar10-byol
    """
    from dlcv.cli.train.fit import quiet_lightning
    from dlcv.train.hardware import Hardware
    from dlcv.train.recipe import data_root
    from dlcv.train.transfer import Comparison, compare, table_lines

    quiet_lightning()
    folder = out or Path("runs") / Path(family).name
    comparison = Comparison(
        family=family, out=folder, backbones={"supervised": supervised, "byol": byol}
    )
    outcomes = list(compare(comparison, data_root(data), hardware=Hardware(threads=threads)))
    print("\n".join(table_lines(outcomes)))
