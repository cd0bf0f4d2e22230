"""`dlcv-infer classify`."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, run_task


def classify(
    images: options.Images,
    model: options.Model = None,
    out: options.Out = None,
    format: options.Format = "jsonl",
    top: Annotated[int, typer.Option(min=1, help="Classes a line, likeliest first.")] = 5,
    overlay: options.Overlay = False,
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
    """Name what is in each image.

    Prints a line of JSON or CSV an image, or writes them to a folder with --out.

    \b
    Examples:
      dlcv-infer classify photo.jpg
      dlcv-infer classify holiday/ -m pets-vit --top 3 --format csv > pets.csv
      dlcv-infer classify 'shots/**/*.png' --out results --overlay
      find . -name '*.jpg' | dlcv-infer classify - --out results --resume
    """
    from dlcv.runtime.results import WriteOptions

    run_task(
        TaskRequest(
            command="classify",
            images=images,
            model=model,
            engine=engine,
            precision=precision,
            engine_settings=engine_option or (),
            out=out,
            write=WriteOptions(lines=format, top=top, overlays=overlay),
            outputs=("probabilities",),
            if_present=("explanation",) if overlay else (),
            batch=batch,
            devices=devices,
            threads=threads,
            depth=depth,
            all_files=all_files,
            resume=resume,
            fail_fast=fail_fast,
            overwrite=overwrite,
            ray=ray,
            workers=workers,
            column=column,
        )
    )
