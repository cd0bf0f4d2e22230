"""`dlcv-train figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def figures(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A checkpoint folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the PNG files; without it, RUN/figures.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An image of which to draw a segmenter's masks; repeat for more. Without it, three.",
        ),
    ] = None,
) -> None:
    """Draw a run for a report, as PNG files; prints a line for each, or why it is skipped.

    \b
    Examples:
      dlcv-train figures runs/cifar10-vit --data ~/data
      dlcv-train figures runs/camvid-lraspp --images 0001TP_008550 --images 0016E5_07959
    """
    from dlcv.train.figures.report import Request, draw_figures
    from dlcv.train.recipe import data_root

    request = Request(
        run=run, root=data_root(data), out=out or run / "figures", images=tuple(images or ())
    )
    for line in draw_figures(request):
        print(line, flush=True)
