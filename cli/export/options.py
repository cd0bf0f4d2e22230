"""Options that several commands of `dlcv-export` share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dlcv.cli.text import fractions_from_text, key_values, size_from_text

if TYPE_CHECKING:
    from dlcv.export.sources import ExportSource
    from dlcv.runtime.bundle import Bundle

_NEEDED = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "safetensors",
    "yaml",
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Checkpoint folder of dlcv-train, timm:NAME, torchvision:NAME[@WEIGHTS], smp:NAME, or py:FILE.py:FUNCTION.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Checkpoint or state dict, .safetensors or .pth; no download."),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key", metavar="KEY", help="Which state dict of --weights, if it holds several."
    ),
]
Random = Annotated[
    bool, typer.Option("--random", help="Random weights, always the same; for tests of programs.")
]
Classes = Annotated[Path | None, typer.Option("--classes", help="File with one class name a line.")]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Input size in pixels; by default the model's, of py: 224x224, of smp: 512x512.",
    ),
]
TaskName = Annotated[
    Literal["classify", "segment", "embed"] | None,
    typer.Option("--task", help="Of a py: network; classify by default."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Of a py: or smp: network's input, in units of 0..1; py: 0,0,0 by default, smp: ImageNet's.",
    ),
]
Std = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="As --mean; by default 1,1,1, or ImageNet's.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="An argument of a py: function or smp: network; give it again for more.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        help="Image or folder for the parity gate; give it again for more. "
        "Without it, the sample photos of dlcv.",
    ),
]


def require_extra() -> None:
    """Check that what export needs is installed.

    Raises:
        InputError: it is not; the sentence has the command.
    """
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    missing = [name for name in _NEEDED if not is_importable(name)]
    if missing:
        raise InputError(f"export needs {', '.join(missing)}; run pip install 'dlcv[cpu,export]'")


def loaded_source(
    source: str,
    *,
    weights: Path | None,
    random: bool,
    classes: Path | None,
    size: str | None,
    weights_key: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> ExportSource:
    """Load a source with the given options.

    Raises:
        UserError: it cannot be loaded, or an option does not fit.
    """
    from dlcv.export.sources import SourceOptions, load_source

    options = SourceOptions(
        weights=weights,
        weights_key=weights_key,
        random=random,
        classes=classes,
        size=size_from_text(size),
        **(more or {}),
        on_note=lambda note: print(f"dlcv-export: {note}", file=sys.stderr),
    )
    tell("loading the model")
    return load_source(source, options)


def network_options(
    task: str | None, mean: str | None, std: str | None, settings: Sequence[str] | None
) -> dict[str, Any]:
    """Return what the options of py: networks give, as fields of `SourceOptions`.

    Raises:
        InputError: one is not what its option takes.
    """
    return {
        "task": task,
        "mean": fractions_from_text(mean, option="--mean") if mean else None,
        "std": fractions_from_text(std, option="--std") if std else None,
        "settings": key_values(settings, "--set"),
    }


def report(bundle: Bundle) -> list[str]:
    """Return the text printed about a new bundle: its parity and its files."""
    from dlcv.runtime.bundle.report import parity_table

    parity, files = bundle.variant().parity, bundle.manifest.files
    return [
        f"{parity.engine} against {parity.reference}, on {parity.images}",
        *parity_table(parity.outputs),
        *(f"{file}: {entry.size_bytes / 1000:,.0f} kB" for file, entry in files.items()),
    ]


def tell(words: str) -> None:
    """Print a progress message to stderr, if it is a terminal."""
    if sys.stderr.isatty():
        print(f"dlcv-export: {words} …", file=sys.stderr)
