"""`dlcv-export precision`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dlcv.cli.export import options

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.bundle.schema import VariantName

_NEEDED = ("onnx", "onnxruntime")


def precision(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)
    ],
    to: Annotated[Literal["fp16", "bf16", "int8"], typer.Option("--to", help="Precision to add.")],
    for_: Annotated[
        Literal["cpu", "tensorrt"] | None,
        typer.Option(
            "--for",
            help="What runs the int8 graph: cpu (default; ONNX Runtime and OpenVINO, made by NNCF), or tensorrt. "
            "A bundle may have both.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            metavar="IMAGES",
            help="Image, folder or quoted glob to measure ranges on; give it again for more. "
            "int8 needs 16 images or more, better 100.",
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            "--labelled",
            metavar="DATA",
            help="Labelled images for the accuracy gate: class folders, a CSV of files and labels, "
            "or images/ with masks in labels/; a folder or a ZIP file.",
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", help="How much top-1 or mean IoU may fall: 0.5% or 0.005.")
    ] = "0.5%",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a copy; without it the bundle is changed."),
    ] = None,
) -> None:
    """Add a lower precision of its graph to a bundle, if that passes its gates.

    The gates: parity with the fp32 graph on the images and with PyTorch in the golden cases, and with
    --labelled an accuracy that falls by the budget at most. What fails is tried again with its worst nodes
    in fp32. If nothing passes, the worst tensors are named and nothing is written. PyTorch is not needed.

    \b
    Examples:
      dlcv-export precision bundles/pets --to fp16
      dlcv-export precision bundles/pets --to int8 --calibrate train/ --labelled val.zip
      dlcv-export precision bundles/pets --to int8 --for tensorrt --calibrate train/
      dlcv-export precision camvid-lraspp --to int8 --calibrate "street/*.jpg" -o bundles/camvid-int8
    """
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    if missing := [name for name in _NEEDED if not is_importable(name)]:
        raise InputError(f"this needs {', '.join(missing)}; run pip install 'dlcv[cpu]' onnx")
    from dlcv.export.precision import PrecisionOptions, add_precision

    settings = PrecisionOptions(
        precision=to,
        target=for_,
        calibrate=tuple(calibrate or ()),
        labelled=labelled,
        budget=budget_from_text(budget),
        out=out,
        progress=options.tell,
        warn=_warn,
    )
    made = add_precision(bundle, settings)
    print("\n".join(_report(made, settings.variant)), file=sys.stderr)
    print(out or bundle)


def budget_from_text(text: str) -> float:
    """Return a share in 0..1 from text such as "0.5%" or "0.005".

    Raises:
        InputError: the text is something else.
    """
    from dlcv.runtime.errors import InputError

    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1
    if not 0 <= number < 1:
        raise InputError(f"--budget must be a share such as 0.5% or 0.005, not {text!r}")
    return number


def _report(bundle: Bundle, name: VariantName) -> list[str]:
    from dlcv.runtime.bundle.report import parity_table, variant_lines

    variant, files = bundle.graph().variants[name], bundle.manifest.files
    exact, size = files[bundle.variant("fp32").file], files[variant.file]
    return [
        f"{variant.parity.engine} against {variant.parity.reference}, on {variant.parity.images}",
        *parity_table(variant.parity.outputs),
        *variant_lines(variant),
        f"{variant.file}: {size.size_bytes / 1000:,.0f} kB, fp32 {exact.size_bytes / 1000:,.0f} kB",
    ]


def _warn(words: str) -> None:
    print(f"dlcv-export: {words}", file=sys.stderr)
