"""Options that several commands of `dlcv-export` share."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from dlcv.cli.text import fractions_from_text, key_values, size_from_text

if TYPE_CHECKING:
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
        help="Checkpoint folder of dlcv-train, timm:NAME, torchvision:NAME[@WEIGHTS], smp:NAME, hf:FOLDER, or "
        "py:FILE.py:FUNCTION.",
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
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="Class names: text, one a line, or a CSV with columns name and, if wished, color (#rrggbb); or imagenet, or voc.",
    ),
]
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
Activation = Annotated[
    Literal["softmax", "sigmoid"] | None,
    typer.Option(
        "--activation",
        help="Of a classifier: sigmoid where an image can have several labels; softmax by default.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="With a sigmoid: probability from which a label, or the second of two classes of pixels, is given; 0.5.",
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale", help="Pixels in 0..255 are multiplied by this first; 1/255 by default."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="R,G,B",
        help="Subtracted then, by channel, or one number; by default the library's (of hf: the folder's), "
        "of smp: ImageNet's, of py: 0.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option("--std", metavar="R,G,B", help="Divided by then; by default as --mean, of py: 1."),
]
Channels = Annotated[
    Literal["rgb", "bgr", "grey"] | None,
    typer.Option("--channels", help="What the network takes; rgb by default."),
]
Resize = Annotated[
    Literal["stretch", "center_crop", "longest_side", "letterbox"] | None,
    typer.Option(
        "--resize", help="How an image comes to the size; of py: and smp: stretch by default."
    ),
]
Resample = Annotated[
    Literal["bilinear", "bicubic", "lanczos"] | None,
    typer.Option("--resample", help="Filter; of py: and smp: bilinear by default."),
]
CropFraction = Annotated[
    float | None,
    typer.Option("--crop-fraction", help="Of center_crop: 0.875 is resize to 256, crop 224."),
]
Pad = Annotated[
    str | None,
    typer.Option(
        "--pad",
        metavar="R,G,B",
        help="Of letterbox: colour of the border in 0..255, or one number.",
    ),
]
PadAt = Annotated[
    Literal["center", "end"] | None,
    typer.Option("--pad-at", help="Of letterbox: border on all sides, or only right and below."),
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

Name = Annotated[
    str | None, typer.Option("--name", help="Name in the manifest, instead of the source's.")
]
Description = Annotated[
    str | None, typer.Option("--description", help="What it is, in a sentence, for the manifest.")
]
Licence = Annotated[
    str | None, typer.Option("--licence", help="Terms of the weights, for the manifest.")
]
DataNote = Annotated[
    str | None,
    typer.Option("--data-note", help="What the weights were trained on, for the model card."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", help="What it cannot do, for the model card; give it again for more sentences."
    ),
]
StoreWeights = Annotated[
    Literal["fp32", "fp16"],
    typer.Option(
        "--store-weights",
        help="fp16: the file is half as large; the arithmetic stays fp32. Weights that float16 cannot hold stay fp32.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")]


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


LoadSource: TypeAlias = Callable[[], Any]
"""Loads the source that the options of a command name: an `ExportSource`."""
Writing: TypeAlias = Callable[[], Any]
"""Returns how a command writes its bundle, `BundleOptions`."""


def takes_source(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a source, in place of its parameter `source`, a function that loads it."""
    return _with_options_of(loaded_source, command, parameter="source")


def takes_writing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a new bundle, in place of its parameter `writing`, a function that returns them."""
    return _with_options_of(bundle_options, command, parameter="writing")


def _with_options_of(
    function: Callable[..., Any], command: Callable[..., None], *, parameter: str
) -> Callable[..., None]:
    """Give a command a function's options in place of a parameter, which gets the function with their values."""
    own = inspect.signature(command, eval_str=True).parameters
    added = inspect.signature(function, eval_str=True).parameters

    @functools.wraps(command)
    def run(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in added}
        command(**values, **{parameter: functools.partial(function, **chosen)})

    shown = [q for p in own.values() for q in (added.values() if p.name == parameter else (p,))]
    run.__dict__.pop("__wrapped__")
    run.__dict__["__signature__"] = inspect.Signature(
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shown]
    )
    run.__annotations__ = {p.name: p.annotation for p in shown}
    return run


def bundle_options(
    store_weights: StoreWeights = "fp32",
    name: Name = None,
    description: Description = None,
    licence: Licence = None,
    data_note: DataNote = None,
    limit: Limits = None,
    images: Images = None,
    overwrite: Overwrite = False,
) -> Any:
    """Return how a bundle is written, `BundleOptions`, with the given options."""
    from dlcv.export.writing import BundleOptions

    return BundleOptions(
        name=name,
        description=description,
        licence=licence,
        data=data_note,
        limits=tuple(limit or ()),
        weights=store_weights,
        images=tuple(images or ()),
        overwrite=overwrite,
        progress=tell,
    )


def loaded_source(
    source: Source,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    random: Random = False,
    set_: Settings = None,
    task: TaskName = None,
    classes: Classes = None,
    activation: Activation = None,
    threshold: Threshold = None,
    size: Size = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    resize: Resize = None,
    resample: Resample = None,
    crop_fraction: CropFraction = None,
    pad: Pad = None,
    pad_at: PadAt = None,
) -> Any:
    """Load a source, an `ExportSource`, with the given options, as typed on the command line.

    Raises:
        UserError: it cannot be loaded, or an option does not fit.
    """
    from dlcv.export.sources import ImageOptions, SourceOptions, load_source

    images = ImageOptions(
        scale=fractions_from_text(scale, option="--scale")[0] if scale else None,
        mean=fractions_from_text(mean, option="--mean") if mean else None,
        std=fractions_from_text(std, option="--std") if std else None,
        channels=channels,
        resize=resize,
        resample=resample,
        crop_fraction=crop_fraction,
        pad=_color(pad) if pad else None,
        pad_at=pad_at,
    )
    options = SourceOptions(
        weights=weights,
        weights_key=weights_key,
        random=random,
        settings=key_values(set_, "--set"),
        task=task,
        classes=classes,
        activation=activation,
        threshold=threshold,
        size=size_from_text(size),
        images=images,
        on_note=lambda note: print(f"dlcv-export: {note}", file=sys.stderr),
    )
    tell("loading the model")
    return load_source(source, options)


def _color(text: str) -> tuple[int, int, int]:
    from dlcv.runtime.errors import InputError

    numbers = [int(word) if word.strip().isdecimal() else -1 for word in text.split(",")]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        raise InputError(f"--pad takes a colour in 0..255, such as 114 or 0,0,0, not {text!r}")
    red, green, blue = numbers
    return red, green, blue


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
