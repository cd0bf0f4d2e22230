"""`dlcv-export any-size`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcv.cli.export import options

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle

_NEEDED = ("onnx", "onnxruntime", "yaml")


def any_size(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)
    ],
    images: options.Images = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a copy; without it the bundle is changed."),
    ] = None,
) -> None:
    """Add a graph with the resize inside to a bundle, so that a program only decodes a photo and runs.

    The graph takes one photo of any height and width, as decoded and oriented; the bundle's own resize, crop and border are
    nodes in it, on every engine the same. For GPUs, browsers and C++ programs: on a CPU, dlcv's own resize is faster.
    It is compared with that on photos, on ONNX Runtime and, if installed, OpenVINO: pixels within 1 of 255, and the
    same answers, or nothing is written. PyTorch is not needed.

    \b
    Examples:
      dlcv-export any-size bundles/pets
      dlcv-export any-size bundles/pets --images photos/
      dlcv-export any-size imagenet-lite0 -o bundles/imagenet-any-size
    """
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    if missing := [name for name in _NEEDED if not is_importable(name)]:
        raise InputError(
            f"this needs {', '.join(missing)}; run pip install 'dlcv[cpu]' onnx pyyaml"
        )
    from dlcv.export.any_size import AnySizeOptions, add_any_size

    settings = AnySizeOptions(
        images=tuple(images or ()),
        out=out,
        progress=options.tell,
        warn=lambda words: print(f"dlcv-export: {words}", file=sys.stderr),
    )
    made = add_any_size(bundle, settings)
    print("\n".join(_report(made)), file=sys.stderr)
    print(out or bundle)


def _report(bundle: Bundle) -> list[str]:
    from dlcv.runtime.bundle.report import any_size_line, parity_table

    made = bundle.graph().any_size
    if made is None:
        return []
    parity = made.parity
    return [
        f"{parity.engine} against {parity.reference}, on {parity.images}",
        *parity_table(parity.outputs),
        any_size_line(bundle.manifest, made),
    ]
