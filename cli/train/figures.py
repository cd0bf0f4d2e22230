"""`dlcv-train figures`."""

from __future__ import annotations

import sys
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
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE",
            help="One of curves, confusion, masks, pca, tsne, filters, activations, positions, attention;"
            " repeat for more. Without it, all.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A test image to draw masks, activations and attention of; repeat for more. Without it, three.",
        ),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A photo to draw activations and attention of instead; repeat for more.",
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A module, as in `dlcv-train summary`, to draw activations of, beside the first layer;"
            " repeat for more. Without it, the last convolution block.",
        ),
    ] = None,
    points: Annotated[
        int, typer.Option(min=10, help="At most so many test images in pca and tsne.")
    ] = 2000,
) -> None:
    """Draw a run for a report, as PNG files; prints a line for each, or why it is skipped.

    \b
    Examples:
      dlcv-train figures runs/cifar10-vit --data ~/data
      dlcv-train figures runs/camvid-lraspp --images 0001TP_008550 --images 0016E5_07959
      dlcv-train figures runs/cifar50-resnet18-small --only pca --only tsne --points 1000
      dlcv-train figures runs/cifar10-resnet18-transfer --only activations --photos zebra.jpg --layer layer4.1
      dlcv-train figures runs/imagenette-vit --only attention --photos church.jpg --photos horn.jpg
    """
    from dlcv.train.figures.report import draw_figures
    from dlcv.train.figures.request import Request
    from dlcv.train.recipe import data_root

    request = Request(
        run=run,
        root=data_root(data),
        out=out or run / "figures",
        only=tuple(only or ()),
        images=tuple(images or ()),
        photos=tuple(photos or ()),
        layers=tuple(layer or ()),
        points=points,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for line in draw_figures(request):
        print(line, flush=True)
