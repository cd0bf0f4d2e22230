"""`dlcv-infer segment`."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, run_task


def segment(
    images: options.Images,
    model: options.Model = None,
    out: options.Out = None,
    format: options.Format = "jsonl",
    overlay: options.Overlay = False,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Also write how certain each pixel is, as grey PNG."),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Run at this longer side in pixels, not the bundle's."),
    ] = None,
    engine: options.EngineName = "auto",
    precision: options.PrecisionName = None,
    engine_option: options.EngineSetting = None,
    batch: options.Batch = None,
    devices: options.Devices = None,
    threads: options.Threads = None,
    depth: options.Depth = None,
    all_files: options.AllFiles = False,
    resume: options.Resume = False,
    fail_fast: options.FailFast = False,
    overwrite: options.Overwrite = False,
    ray: options.Ray = None,
    workers: options.Workers = None,
    column: options.Column = None,
) -> None:
    """Give each pixel a class.

    Writes a palette PNG mask of each image's size, and a line an image.

    Without --out the results go to dlcv-segment/ (dlcv-segment-2/ if that exists, and so on).

    \b
    Examples:
      dlcv-infer segment street.jpg --overlay
      dlcv-infer segment 'val/*.jpg' -m camvid-lraspp --out masks
      dlcv-infer segment drive/ --out masks --resume
      dlcv-infer segment drive/ --size 960 --out -         # shares of the classes only, on stdout
    """
    from dlcv.runtime.results import WriteOptions

    to_folder = str(out) != "-"
    run_task(
        TaskRequest(
            command="segment",
            images=images,
            model=model,
            engine=engine,
            precision=precision,
            engine_settings=engine_option or (),
            out=out,
            write=WriteOptions(
                lines=format, masks=to_folder, overlays=overlay, confidence=confidence
            ),
            outputs=("mask", "confidence") if confidence else ("mask",),
            batch=batch,
            devices=devices,
            threads=threads,
            depth=depth,
            all_files=all_files,
            size=size,
            resume=resume,
            fail_fast=fail_fast,
            overwrite=overwrite,
            ray=ray,
            workers=workers,
            column=column,
            files_by_default=True,
        )
    )
