"""`dlcv-export import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dlcv.cli.export import options

if TYPE_CHECKING:
    from dlcv.export.onnx_import import Scaling

_NEEDED = ("onnx", "onnxruntime", "yaml")


@options.takes_writing
def import_(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="ONNX file.", show_default=False)
    ],
    task: Annotated[
        Literal["classify", "segment", "embed"],
        typer.Option("--task", help="What the graph does.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the new bundle.", show_default=False)
    ],
    scale: Annotated[
        str, typer.Option("--scale", help="Pixels in 0..255 are multiplied by this first.")
    ] = "1/255",
    mean: Annotated[
        str, typer.Option("--mean", help="Subtracted then: one number, or one a channel.")
    ] = "0",
    std: Annotated[
        str, typer.Option("--std", help="Divided by then: one number, or one a channel.")
    ] = "1",
    channels: Annotated[
        Literal["rgb", "bgr", "grey"] | None,
        typer.Option("--channels", help="Their order; without it rgb, or grey where there is one."),
    ] = None,
    layout: Annotated[
        Literal["nchw", "nhwc"] | None,
        typer.Option("--layout", help="Needed where the input's shape does not show it."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="In pixels; needed where the graph takes any."),
    ] = None,
    resize: Annotated[
        Literal["stretch", "center_crop", "longest_side", "letterbox"],
        typer.Option("--resize", help="How an image is brought to the size."),
    ] = "stretch",
    crop_fraction: Annotated[
        float,
        typer.Option(
            "--crop-fraction",
            help="Of center_crop: 0.875 is resize to 256, crop 224.",
        ),
    ] = 1.0,
    resample: Annotated[
        Literal["bilinear", "bicubic", "lanczos"], typer.Option("--resample", help="Filter.")
    ] = "bilinear",
    multiple: Annotated[
        int, typer.Option("--multiple", min=1, help="Of longest_side: both sides divide by this.")
    ] = 1,
    pad: options.Pad = None,
    pad_at: options.PadAt = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            help="Class names: text, one a line, or a CSV with columns name and, if wished, color (#rrggbb); or imagenet, or voc. "
            "Without it class_0, …",
        ),
    ] = None,
    activation: Annotated[
        Literal["softmax", "sigmoid"] | None,
        typer.Option(
            "--activation",
            help="Of a classifier: sigmoid where an image can have several labels; softmax by default. "
            "A mask of one channel has a sigmoid by itself.",
        ),
    ] = None,
    threshold: options.Threshold = None,
    logits: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option(
            "--logits",
            help="Whether the activation is to be added to the scores; auto looks at those of photos.",
        ),
    ] = "auto",
    output: Annotated[
        str | None,
        typer.Option("--output", help="Tensor with the answer; needed where there are several."),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            "--embedding",
            help="Tensor for the classifier's embedding; without it, what its last linear layer reads, if it has one.",
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="Of the new graph; 18, or the file's if newer.")
    ] = None,
    *,
    writing: options.Writing,
) -> None:
    """Wrap an ONNX file that somebody else made into a bundle, if its graph gives the file's answers.

    The network takes (pixel * scale - mean) / std, mean and std in the order of --channels. Old opsets are
    converted, a batch of 1 is freed, QLinear operators become quantise/dequantise pairs. The reference is
    the file itself on ONNX Runtime. Needs no PyTorch. Prints the bundle's path.

    \b
    Examples, by what the network was trained on:
      ImageNet's mean and standard deviation (PyTorch):
        dlcv-export import net.onnx --task classify -o bundles/net --mean 0.485,0.456,0.406 \\
          --std 0.229,0.224,0.225 --resize center_crop --crop-fraction 0.875 --classes imagenet
      -1..1 (TensorFlow):
        dlcv-export import net.onnx --task segment -o bundles/net --mean 0.5 --std 0.5
      BGR in 0..255 less a mean (Caffe):
        dlcv-export import net.onnx --task classify -o bundles/net --scale 1 --mean 104,117,123 --channels bgr

    \b
    By what it answers:
      several labels for an image, each given from a probability of 0.3 on:
        dlcv-export import net.onnx --task classify -o bundles/net --activation sigmoid --threshold 0.3
      a mask of one channel, of images brought to the size by a grey border:
        dlcv-export import net.onnx --task segment -o bundles/net --threshold 0.4 --resize letterbox --pad 114
    """
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    if missing := [needed for needed in _NEEDED if not is_importable(needed)]:
        raise InputError(
            f"this needs {', '.join(missing)}; run pip install 'dlcv[cpu]' onnx pyyaml"
        )
    from dlcv.cli.text import fractions_from_text, size_from_text
    from dlcv.export.onnx_import import ImportOptions, import_bundle

    settings = ImportOptions(
        task=task,
        scaling=_scaling(scale, mean, std),
        layout=layout,
        channels=channels,
        size=size_from_text(size),
        resize=resize,
        crop_fraction=crop_fraction,
        resample=resample,
        multiple=multiple,
        pad=fractions_from_text(pad, option="--pad") if pad is not None else None,
        pad_at=pad_at,
        classes=classes,
        activation=activation,
        threshold=threshold,
        logits=logits,
        output=output,
        embedding=embedding,
        opset=opset,
        writing=writing(),
    )
    made = import_bundle(model, out, settings)
    print("\n".join(options.report(made)), file=sys.stderr)
    print(out)


def _scaling(scale: str, mean: str, std: str) -> Scaling:
    from dlcv.cli.text import fractions_from_text
    from dlcv.export.onnx_import import Scaling
    from dlcv.runtime.errors import InputError

    scales = fractions_from_text(scale, option="--scale")
    if len(scales) != 1:
        raise InputError(f"--scale takes one number, not {len(scales)}")
    return Scaling(
        scale=scales[0],
        mean=fractions_from_text(mean, option="--mean"),
        std=fractions_from_text(std, option="--std"),
    )
