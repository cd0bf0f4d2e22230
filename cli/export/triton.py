"""`dlcv-export triton`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dlcv.cli.infer import options


def triton(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...", help="Bundle folders, or built-ins' names.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="REPOSITORY", help="The model repository.", show_default=False
        ),
    ],
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"],
        typer.Option("--backend", help="Triton's backend; tensorrt needs a plan."),
    ] = "onnxruntime",
    plan: Annotated[
        list[Path] | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="A TensorRT plan, of dlcv-export engine --out; the bundle's by default. Give it again for more.",
        ),
    ] = None,
    precision: options.PrecisionName = None,
    outputs: Annotated[
        str | None,
        typer.Option("--outputs", metavar="NAMES", help="Comma-separated; all by default."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            "-b",
            min=1,
            help="Images in one call at most; 8, or as many as the plan takes.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--cpu", help="Where Triton runs it; Triton chooses by default."),
    ] = None,
    queue_delay: Annotated[
        int,
        typer.Option(
            "--queue-delay",
            min=0,
            metavar="MICROSECONDS",
            help="How long Triton may wait for a fuller batch.",
        ),
    ] = 0,
    version: Annotated[int, typer.Option("--version", min=1, help="The models' version.")] = 1,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace models that this command wrote; their other versions and files stay.",
        ),
    ] = False,
) -> None:
    """Write a model repository for NVIDIA Triton Inference Server.

    Each bundle becomes a model of its name; both graphs of a captioner, and a distance, one of their own. Prints the
    models' folders. What a client must do is in docs/triton.md.

    \b
    Examples:
      dlcv-export triton imagenet-lite0 voc-deeplab -o repository
      dlcv-export triton bundles/pets-vit -o repository --precision fp16 --outputs probabilities --gpu
      dlcv-export triton bundles/pets-vit -o repository --backend tensorrt --plan pets-vit.plan
    """
    from dlcv.export.triton import TritonOptions, triton_repository
    from dlcv.runtime.bundle import open_bundle

    written = triton_repository(
        [open_bundle(bundle) for bundle in bundles],
        out,
        options=TritonOptions(
            backend=backend,
            precision=precision,
            outputs=[name.strip() for name in outputs.split(",")] if outputs else None,
            plans=plan or (),
            batch=batch,
            device=None if gpu is None else "gpu" if gpu else "cpu",
            queue_delay_us=queue_delay,
            version=version,
            overwrite=overwrite,
        ),
    )
    for folder in written:
        print(folder)
