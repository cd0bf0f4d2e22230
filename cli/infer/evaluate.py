"""`dlcv-infer evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dlcv.cli.edge import EXIT_SOME_REFUSED
from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say

if TYPE_CHECKING:
    from dlcv.runtime.predictor import Predictor


def evaluate(
    bundle: options.BundlePath,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: class folders, a CSV, contact sheets, images/ with labels/, or captions in JSON; or a ZIP of these.",
        ),
    ],
    engine: options.EngineName = "auto",
    precision: options.PrecisionName = None,
    format: Annotated[
        Literal["text", "json"], typer.Option("--format", "-f", help="What to print.")
    ] = "text",
    confusion: Annotated[
        Path | None,
        typer.Option(
            "--confusion", metavar="FILE", help="Confusion matrix: .csv counts, .png a picture."
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the score into the bundle's manifest.")
    ] = False,
    data_name: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="With --record: what DATA is; its name by default."),
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
    Masks: IoU of each class over the whole set, their mean, pixel accuracy. Masks hold class indices, or in RGB files
    the classes' colors; label 255 and what is of no class do not count.
    Captions: BLEU-4 and CIDEr against those of a file {"image.jpg": ["a caption", ...]} beside the images.

    \b
    Examples:
      dlcv-infer evaluate camvid-lraspp ~/data/camvid/val --engine ort
      dlcv-infer evaluate bundles/cnn ~/data/cifar10 --format json --confusion confusion.png
      dlcv-infer evaluate bundles/fcn validation.zip --pairs "{}_sat.jpg" "{}_mask.png" --record
      dlcv-infer evaluate bundles/captioner ~/data/flickr8k/test_captions.json
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.confusion import require_confusion_file, save_confusion
    from dlcv.runtime.evaluation import evaluate as score
    from dlcv.runtime.evaluation import recorded, require_recordable
    from dlcv.runtime.labelled import labelled_images
    from dlcv.runtime.predictor import load

    opened = open_bundle(bundle)
    _require_agreeing(record=record, data_name=data_name)
    if opened.manifest.task == "caption":
        _require_no_classes(confusion=confusion, record=record)
        with loading(engine_option, threads=threads, batch=batch) as settings:
            predictor = load(opened, engine=engine, precision=precision, options=settings)
        _score_captions(predictor, data, format)
        return
    if confusion is not None:
        require_confusion_file(confusion)
    if record:
        require_recordable(opened)
    manifest = opened.manifest
    names = [info.name for info in manifest.classes]
    items = labelled_images(data, task=manifest.task, classes=names, patterns=pairs)
    with loading(engine_option, threads=threads, batch=batch) as settings:
        predictor = load(opened, engine=engine, precision=precision, options=settings)
    with predictor, _progress(len(items)) as advance:
        scored = score(predictor, items, on_progress=advance)
    _print(scored.record(), format)
    for line in (*scored.notes, *scored.refused):
        say(line)
    if confusion is not None:
        title = f"{manifest.name}: {scored.score}"
        save_confusion(confusion, scored.matrix, names=names, title=title)
    if record:
        recorded(opened, scored, data=data_name or data.resolve().name)
    if scored.refused:
        raise typer.Exit(EXIT_SOME_REFUSED)


def _score_captions(predictor: Predictor, data: Path, format: Literal["text", "json"]) -> None:
    from dlcv.runtime.caption.evaluation import evaluate_captions
    from dlcv.runtime.caption.images import captioned_images

    items = captioned_images(data)
    with predictor, _progress(len(items)) as advance:
        scored = evaluate_captions(predictor, items, on_progress=advance)
    _print(scored.record(), format)
    for line in scored.refused:
        say(line)
    if scored.refused:
        raise typer.Exit(EXIT_SOME_REFUSED)


def _require_no_classes(*, confusion: Path | None, record: bool) -> None:
    from dlcv.runtime.errors import InputError

    if confusion is not None or record:
        raise InputError("--confusion and --record are for classes and masks, not for captions")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of images on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not _on_terminal()) as bar:
        row = bar.add_task("images", total=total)
        yield lambda: bar.advance(row)


def _require_agreeing(*, record: bool, data_name: str | None) -> None:
    from dlcv.runtime.errors import InputError

    if data_name is not None and not record:
        raise InputError("--data-name is for what --record writes; give both or neither")


def _on_terminal() -> bool:
    import sys

    return sys.stderr.isatty()


def _print(record: dict[str, Any], format: Literal["text", "json"]) -> None:
    import msgspec

    if format == "json":
        print(msgspec.json.encode(record).decode())
        return
    for name, value in record.items():
        if name in {"confusion", "ran", "refused", "notes"}:
            continue
        for line in value.items() if isinstance(value, dict) else [(name, value)]:
            shown = round(line[1], 4) if isinstance(line[1], float) else line[1]
            print(f"{line[0]:18} {'-' if shown is None else shown}")
    print(f"{'ran':18} {_what_ran(record['ran'])}")


def _what_ran(ran: object) -> str:
    keys = ("engine", "engine_version", "device", "precision")
    return " ".join(str(ran[key]) for key in keys) if isinstance(ran, dict) else ""
