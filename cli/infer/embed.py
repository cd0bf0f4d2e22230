"""`dlcv-infer embed`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, run_task


class EmbeddingFormat(StrEnum):
    """Formats of embeddings: one matrix file, or a line an image."""

    npz = "npz"
    parquet = "parquet"
    jsonl = "jsonl"
    csv = "csv"


def embed(
    images: options.Images,
    model: options.Model = None,
    out: options.Out = None,
    format: Annotated[
        EmbeddingFormat,
        typer.Option(
            "--format", "-f", help="With --out: matrix file; jsonl and csv also on stdout."
        ),
    ] = EmbeddingFormat.npz,
    engine: options.EngineName = "auto",
    precision: options.PrecisionName = None,
    batch: options.Batch = 8,
    threads: options.Threads = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Turn each image into a vector.

    Writes embeddings.npz or .parquet to the folder --out; without it prints lines.

    \b
    Examples:
      dlcv-infer embed photos/ --out vectors                    # vectors/embeddings.npz
      dlcv-infer embed photos/ --format parquet --out vectors
      dlcv-infer embed photo.jpg                                # a line of JSON on stdout
    """
    from dlcv.runtime.writers import WriteOptions

    to_stdout = out is None or str(out) == "-"
    matrix = None if to_stdout else {"npz": "npz", "parquet": "parquet"}.get(format.value)
    run_task(
        TaskRequest(
            command="embed",
            images=images,
            model=model,
            engine=engine,
            precision=precision,
            out=out,
            write=WriteOptions(
                lines="csv" if format is EmbeddingFormat.csv else "jsonl",
                embeddings=matrix,  # type: ignore[arg-type]
            ),
            outputs=("embedding",),
            batch=batch,
            threads=threads,
            resume=resume,
            overwrite=overwrite,
        )
    )
