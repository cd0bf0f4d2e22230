"""Options that several commands of `dlcv-infer` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_IMAGES = "Images: files, folders, quoted globs, URLs, or - for a list on standard input."


Images = Annotated[list[str], typer.Argument(help=_IMAGES, show_default=False)]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Bundle folder. Without it the built-in bundle runs."),
]
CaptionModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Bundle folder; none ships with dlcv.")
]
BundlePath = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Bundle folder, or a built-in's name.")
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        "-e",
        help="auto, ort, cuda, trt, trt-rtx or openvino; other packages may add more.",
    ),
]
PrecisionName = Annotated[
    Literal["fp32", "fp16", "bf16", "int8"] | None,
    typer.Option("--precision", help="Of those in the bundle; its first by default."),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for results; - for lines on stdout.")
]
Format = Annotated[
    Literal["jsonl", "csv"], typer.Option("--format", "-f", help="Lines of results.")
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        "-b",
        min=1,
        help="Images in one engine call at most; as tuned or measured on first use, or else 8, 1 of large images on a CPU.",
        show_default=False,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="NUMBERS",
        help="GPUs that share the images, such as 0,1; the first by default.",
        show_default=False,
    ),
]
EngineSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        "-E",
        metavar="KEY=VALUE",
        help="A setting of the engine's own (docs/engines.md); give it again for more.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads of the engine; all by default."),
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        min=1,
        max=16,
        metavar="BITS",
        help="Bits that 16-bit grey images use, such as 12; as the file says by default, or all.",
        show_default=False,
    ),
]
AllFiles = Annotated[
    bool,
    typer.Option(
        "--all-files",
        help="Try every file of a folder, whatever its suffix; hidden ones are left out.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the results in --out; images done are passed over."),
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast", help="End at the first image that is refused, instead of passing it over."
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the results in --out; files that dlcv did not write stay."
    ),
]
Engines = Annotated[
    str | None, typer.Option("--engines", help="Such as ort,openvino; all that are available.")
]
Overlay = Annotated[bool, typer.Option("--overlay", help="Also write pictures to look at.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on a Ray cluster: local (this machine), auto (the one that it belongs to) or HOST:6379; Parquet in --out.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="With --ray: processes with a loaded bundle; as many as the cluster has room for.",
        show_default=False,
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="With --ray: the images are Parquet files, and their paths or bytes are in this column.",
        show_default=False,
    ),
]
