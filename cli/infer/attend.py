"""`dlcv-infer attend`."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, run_task


def attend(
    images: options.Images,
    model: options.Model = None,
    out: options.Out = None,
    format: options.Format = "jsonl",
    npz: Annotated[
        bool, typer.Option("--npz", help="Also write the maps as arrays: explanation, attention.")
    ] = False,
    overlay: Annotated[
        bool | None, typer.Option(help="Write pictures to look at; the default with a folder.")
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
) -> None:
    """Show where a vision transformer looks.

    Draws the last layer's attention and the rollout of all layers over each photo, and writes a line an image.

    Without --out the results go to dlcv-attend/ (dlcv-attend-2/ if that exists, and so on).

    \b
    Examples:
      dlcv-infer attend cat.jpg
      dlcv-infer attend photos/ -m pets-vit --npz --no-overlay --out maps
    """
    from dlcv.runtime.results import WriteOptions

    overlays = str(out) != "-" if overlay is None else overlay
    run_task(
        TaskRequest(
            command="attend",
            images=images,
            model=model,
            engine=engine,
            precision=precision,
            engine_settings=engine_option or (),
            out=out,
            write=WriteOptions(lines=format, overlays=overlays, maps=npz),
            outputs=("probabilities", "explanation", "attention"),
            batch=batch,
            devices=devices,
            threads=threads,
            depth=depth,
            all_files=all_files,
            resume=resume,
            fail_fast=fail_fast,
            overwrite=overwrite,
            files_by_default=True,
        )
    )
