"""`dlcv-infer embed`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, run_task


def embed(
    images: options.Images,
    model: options.Model = None,
    out: options.Out = None,
    format: Annotated[
        Literal["npz", "parquet", "jsonl", "csv"] | None,
        typer.Option(
            "--format",
            "-f",
            help="A matrix in --out (npz, the default there; parquet), or lines (jsonl, csv).",
        ),
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
    """Turn each image into a vector.

    Writes embeddings.npz or .parquet to the folder --out; without it prints lines.

    \b
    Examples:
      dlcv-infer embed photos/ --out vectors                    # vectors/embeddings.npz
      dlcv-infer embed photos/ --format parquet --out vectors
      dlcv-infer embed photo.jpg                                # a line of JSON on stdout
    """
    from dlcv.runtime.results import WriteOptions

    to_stdout = out is None or str(out) == "-"
    in_folder: Literal["npz", "parquet"] = "npz" if ray is None else "parquet"
    chosen = format or ("jsonl" if to_stdout else in_folder)
    run_task(
        TaskRequest(
            command="embed",
            images=images,
            model=model,
            engine=engine,
            precision=precision,
            engine_settings=engine_option or (),
            out=out,
            write=WriteOptions(
                lines="csv" if chosen == "csv" else "jsonl",
                embeddings=chosen if chosen in ("npz", "parquet") else None,
            ),
            outputs=("embedding",),
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
