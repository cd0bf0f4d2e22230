"""`dlcv-export engine`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from dlcv.cli.infer import options


def engine(
    bundle: options.BundlePath,
    target: Annotated[
        Literal["trt", "rtx"],
        typer.Option("--target", help="TensorRT or TensorRT-RTX.", show_default=False),
    ],
    graph: Annotated[
        str | None,
        typer.Option(
            "--graph", help="Which graph of the bundle; the one that takes images by default."
        ),
    ] = None,
    precision: options.PrecisionName = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", metavar="MIN,OPT,MAX", help="Batches to build for; 1,8,8 by default."
        ),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option("--outputs", metavar="NAMES", help="Comma-separated; all by default."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Longest side in pixels, for graphs of dynamic size."),
    ] = None,
    engine_option: options.EngineSetting = None,
    into_bundle: Annotated[
        bool, typer.Option("--into-bundle", help="Write the engine into the bundle.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the bare plan to this file.")
    ] = None,
) -> None:
    """Build a TensorRT engine ahead of time.

    Puts it into the cache, where dlcv-infer looks for it, or into the bundle or a file. A TensorRT engine is built on
    the GPU that will run it; one of TensorRT-RTX needs no GPU to be built. Prints the engine's path.

    \b
    Examples:
      dlcv-export engine camvid-lraspp --target rtx --outputs mask
      dlcv-export engine bundles/pets-vit --target trt --precision fp16 --profile 1,8,32
      dlcv-export engine bundles/pets-vit --target rtx --into-bundle
      dlcv-export engine bundles/pets-vit --target trt -o pets-vit.plan
    """
    from dlcv.cli.infer.task import loading
    from dlcv.export.engine import (
        EngineBuild,
        engine_into_bundle,
        engine_into_cache,
        engine_into_file,
        largest_sides,
    )
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.engines.tensorrt.inspector import words_from_shares
    from dlcv.runtime.errors import InputError

    if into_bundle and out is not None:
        raise InputError(
            "the engine goes into the bundle or to a file: give --into-bundle or --out"
        )
    opened = open_bundle(bundle)
    settings = [*(engine_option or ()), *([f"profile={profile}"] if profile else ())]
    with loading(settings) as engine_options:
        build = EngineBuild(
            target=target,
            graph=graph,
            precision=precision,
            outputs=[name.strip() for name in outputs.split(",")] if outputs else None,
            largest=largest_sides(opened, size),
            options=engine_options,
        )
        if out is not None:
            made = engine_into_file(opened, build, out=out)
        elif into_bundle:
            made = engine_into_bundle(opened, build)
        else:
            made = engine_into_cache(opened, build)
    fields = made.request.fields
    print(
        f"{made.request.flavour.words} {fields['version']}, device: {fields['device']}; {made.plan.precision} "
        f"({words_from_shares(made.plan.shares)} of its compute layers); {fields['profile']}; "
        f"{len(made.plan.data) / 1e6:.1f} MB, built in {made.plan.seconds:.1f} s",
        file=sys.stderr,
    )
    print(made.path)
