"""`dlcv-infer evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dlcv.cli.edge import EXIT_SOME_REFUSED
from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say

if TYPE_CHECKING:
    from dlcv.runtime.evaluation import Evaluation


def evaluate(
    bundle: options.BundlePath,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: class folders, a CSV, contact sheets, or images/ with labels/; or a ZIP of these.",
        ),
    ],
    engine: options.EngineName = "auto",
    precision: options.PrecisionName = None,
    format: Annotated[
        Literal["text", "json"], typer.Option("--format", "-f", help="What to print.")
    ] = "text",
    confusion: Annotated[
        Path | None, typer.Option("--confusion", help="CSV file for the confusion matrix.")
    ] = None,
    pairs: Annotated[
        tuple[str, str],
        typer.Option(help="Where images and masks are; {} stands for the name both have."),
    ] = ("images/{}.*", "labels/{}.*"),
    engine_option: options.EngineSetting = None,
    batch: options.Batch = None,
    threads: options.Threads = None,
) -> None:
    """Score a bundle on labelled images, on the engine that will serve it.

    Classes: accuracy (top-1), top-5 where there are more than five, recall of each class.
    Masks: IoU of each class over the whole set, their mean, pixel accuracy; label 255 does not count.

    \b
    Examples:
      dlcv-infer evaluate camvid-lraspp ~/data/camvid/val --engine ort
      dlcv-infer evaluate bundles/cnn ~/data/cifar10 --format json --confusion confusion.csv
    """
    import msgspec

    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.evaluation import evaluate as score
    from dlcv.runtime.labelled import labelled_images
    from dlcv.runtime.predictor import load

    opened = open_bundle(bundle)
    manifest = opened.manifest
    names = [info.name for info in manifest.classes]
    items = labelled_images(data, task=manifest.task, classes=names, patterns=pairs)
    with loading(engine_option, threads=threads, batch=batch) as settings:
        predictor = load(opened, engine=engine, precision=precision, options=settings)
    from rich.console import Console
    from rich.progress import Progress

    with predictor, Progress(console=Console(stderr=True), disable=not _on_terminal()) as bar:
        row = bar.add_task("images", total=len(items))
        scored = score(predictor, items, on_progress=lambda: bar.advance(row))
    record = scored.record()
    if confusion is not None:
        _save_confusion(scored, confusion)
    if format == "json":
        print(msgspec.json.encode(record).decode())
    else:
        _print_figures(record)
    for line in scored.refused:
        say(line)
    if scored.refused:
        raise typer.Exit(EXIT_SOME_REFUSED)


def _on_terminal() -> bool:
    import sys

    return sys.stderr.isatty()


def _save_confusion(scored: Evaluation, path: Path) -> None:
    """Write rows of labels, columns of answers."""
    import csv
    import io

    from dlcv.runtime.files import write_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *scored.class_names])
    for name, row in zip(scored.class_names, scored.matrix.tolist(), strict=True):
        writer.writerow([name, *row])
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _print_figures(record: dict[str, object]) -> None:
    for name, value in record.items():
        if name in {"confusion", "ran", "refused"}:
            continue
        for line in value.items() if isinstance(value, dict) else [(name, value)]:
            shown = round(line[1], 4) if isinstance(line[1], float) else line[1]
            print(f"{line[0]:18} {'-' if shown is None else shown}")
    print(f"{'ran':18} {_what_ran(record['ran'])}")


def _what_ran(ran: object) -> str:
    keys = ("engine", "engine_version", "device", "precision")
    return " ".join(str(ran[key]) for key in keys) if isinstance(ran, dict) else ""
