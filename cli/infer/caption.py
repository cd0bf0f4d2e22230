"""`dlcv-infer caption`."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, run_task


def caption(
    images: options.Images,
    model: options.CaptionModel = None,
    out: options.Out = None,
    format: options.Format = "jsonl",
    beams: Annotated[
        int, typer.Option(min=1, help="Captions pursued at once; 1 is greedy, the fastest.")
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option(min=0, help="More favours longer captions; it needs --beams.")
    ] = 0.6,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Words at most; as many as the bundle can write by default."),
    ] = None,
    attention: Annotated[
        bool,
        typer.Option(
            "--attention", help="Also draw where it looked for each word, as a strip of pictures."
        ),
    ] = False,
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
    """Say in a sentence what is on each image.

    Prints a line an image: caption, its log-probability. With --attention the strips go to overlays/ in --out, or in
    dlcv-caption/.

    \b
    Examples:
      dlcv-infer caption photos/ -m bundles/captioner
      dlcv-infer caption photo.jpg -m bundles/captioner --beams 5
      dlcv-infer caption photos/ -m bundles/captioner --attention --out captions
    """
    from dlcv.runtime.caption.beam_search import SearchOptions
    from dlcv.runtime.results import WriteOptions

    look = ("attention",) if attention else ()
    run_task(
        TaskRequest(
            command="caption",
            images=images,
            model=model,
            engine=engine,
            precision=precision,
            engine_settings=engine_option or (),
            out=out,
            write=WriteOptions(lines=format, overlays=attention),
            outputs=("tokens", "log_probability", *look),
            batch=batch,
            devices=devices,
            threads=threads,
            depth=depth,
            all_files=all_files,
            resume=resume,
            fail_fast=fail_fast,
            overwrite=overwrite,
            files_by_default=attention,
            search=SearchOptions(beams=beams, length_penalty=length_penalty, max_length=max_length),
        )
    )
