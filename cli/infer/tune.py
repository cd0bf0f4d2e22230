"""`dlcv-infer tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say
from dlcv.cli.text import numbers_from_text, words_from_text

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import Precision


def tune(
    bundle: options.BundlePath,
    goal: Annotated[
        Literal["throughput", "latency"],
        typer.Option(help="Images a second of many files, or the time of one image."),
    ] = "throughput",
    engines: options.Engines = None,
    precisions: Annotated[
        str | None, typer.Option("--precisions", help="Such as fp32,int8; all of the bundle's.")
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option("--batches", help="Such as 1,8,32, the default; on a GPU up to 256."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", help="Such as 1,4; all cores and half of them.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="For timing; loading and checking come on top.")
    ] = 30.0,
    size: Annotated[
        int | None, typer.Option(min=1, help="Longer side in pixels, if the bundle's size varies.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Photos on which lower precisions must agree; again for more. [those that ship]"
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(help="Labelled images, as of evaluate: they decide on lower precisions."),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0.0, help="Points that a lower precision's score may be lower.")
    ] = 0.5,
    json: Annotated[Path | None, typer.Option("--json", help="File for the table as JSON.")] = None,
) -> None:
    """Measure what runs a bundle fastest here.

    Replays the golden cases on every engine, precision and setting, drops what fails, and times the rest in
    turns with plain ONNX Runtime (x plain: images/s against it at the same batch). Prints all, best first, and
    remembers it in the cache: --engine auto then takes the best row within what other options fix, until the
    machine or a version changes. A new tuning of the same bundle replaces the old one.

    Lower precisions, bf16 on CPUs that have it among them, run where --labelled images, the bundle's recorded scores, or else
    --images show that the answers stay: the same class on 99 % of the photos, 99.5 % of a mask's pixels, a cosine of .999.

    \b
    Examples:
      dlcv-infer tune camvid-lraspp
      dlcv-infer tune pets-vit --goal latency --engines ort,openvino
      dlcv-infer tune pets-vit --precisions fp32 --batches 1,16 --seconds 120
      dlcv-infer tune pets-vit --labelled val/ --budget 1
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.bundle.report import table
    from dlcv.runtime.measure.lower import LowerOptions
    from dlcv.runtime.measure.tables import save_json, tuning_summary, tuning_table
    from dlcv.runtime.measure.tune import TuneRequest
    from dlcv.runtime.measure.tune import tune as measure

    with loading() as settings:
        request = TuneRequest(
            goal=goal,
            engines=words_from_text(engines),
            precisions=cast("tuple[Precision, ...] | None", words_from_text(precisions)),
            batches=numbers_from_text(batches, option="--batches"),
            threads=numbers_from_text(threads, option="--threads"),
            seconds=seconds,
            size=size,
            lower=LowerOptions(images=tuple(images or ()), labelled=labelled, budget=budget / 100),
            on_progress=settings.on_progress,
        )
        tuning = measure(open_bundle(bundle), request)
    print("\n".join(table(tuning_table(tuning))))
    for reason in tuning.dropped:
        print(f"left out: {reason}")
    say(tuning_summary(tuning))
    if tuning.unsteady:
        say(f"not stored: {tuning.unsteady}")
    if json is not None:
        save_json(tuning, json)
