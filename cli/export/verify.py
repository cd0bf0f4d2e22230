"""`dlcv-export verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dlcv.cli.export import options


@options.takes_source
def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)
    ],
    source: options.LoadSource,
    images: options.Images = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            "-e",
            help="auto, ort, cuda, trt, trt-rtx, openvino, or one that another package adds.",
        ),
    ] = "auto",
) -> None:
    """Compare a bundle with the checkpoint that it was exported from.

    Runs the parity gate again, on any engine; give the options that the export was given. To compare
    with the recorded answers alone, without PyTorch, there is `dlcv-infer check`.

    \b
    Examples:
      dlcv-export verify bundles/cifar10-vit runs/cifar10-vit
      dlcv-export verify bundles/deeplab torchvision:deeplabv3_resnet50 --size 512x512 --images street/
    """
    options.require_extra()
    from dlcv.export.bundle import verify_bundle
    from dlcv.runtime.bundle.report import parity_table

    loaded = source()
    options.tell("comparing")
    parity = verify_bundle(bundle, loaded, images=tuple(images or ()), engine=engine)
    print("\n".join(parity_table(parity.outputs)))
    print(
        f"dlcv-export: {bundle} on {parity.engine} gives what {parity.reference} gives, "
        f"on {parity.images}",
        file=sys.stderr,
    )
