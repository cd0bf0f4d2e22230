"""`dlcv-export bundle`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dlcv.cli.export import options


@options.takes_writing
@options.takes_source
def bundle(
    source: options.LoadSource,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the new bundle.", show_default=False)
    ],
    writing: options.Writing,
) -> None:
    """Export a model and write a bundle, if its graph gives PyTorch's answers.

    The graph takes uint8 pixels and returns finished answers. It is compared with PyTorch on real
    images, at two batch sizes and, for segmenters, two image sizes. If anything is out of tolerance,
    every failure is listed and nothing is written. Prints the bundle's path.

    \b
    Examples:
      dlcv-export bundle runs/cifar10-vit -o bundles/cifar10-vit
      dlcv-export bundle torchvision:deeplabv3_resnet50 -o bundles/deeplab --size 512x512
      dlcv-export bundle torchvision:mobilenet_v2@IMAGENET1K_V1 --weights mobilenet.pth -o bundles/mobilenet
      dlcv-export bundle timm:vit_base_patch16_384 -o bundles/vit --images photos/ --store-weights fp16
      dlcv-export bundle timm:vit_tiny_patch16_224 --random -o bundles/any-vit
      dlcv-export bundle py:unet.py:UNet --set classes=3 --weights w.pth --task segment --classes names.txt \\
          --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 256x256 -o bundles/unet
    """
    options.require_extra()
    from dlcv.export.bundle import export_bundle
    from dlcv.export.writing import require_writable

    settings = writing()
    require_writable(out, overwrite=settings.overwrite)
    made = export_bundle(source(), out, settings)
    print("\n".join(options.report(made)), file=sys.stderr)
    print(out)
