"""`dlcv-infer evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from dlcv.cli.edge import EXIT_SOME_REFUSED
from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.bundle.manifest import Manifest
    from dlcv.runtime.evaluate.evaluation import Evaluation
    from dlcv.runtime.fewshot.evaluation import EpisodeOptions


_NOT_PRINTED = {"confusion", "ran", "refused", "notes", "interval", "intervals"}


class Scored(Protocol):
    """What every evaluation gives: figures for JSON, and the images that could not be read."""

    @property
    def refused(self) -> tuple[str, ...]: ...
    def record(self) -> dict[str, Any]: ...


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
    ways: Annotated[
        int | None, typer.Option(min=2, help="Few-shot: classes of an episode; 5 by default.")
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Few-shot: examples of a class; give it again for more. 1 and 5 by default."
        ),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(min=1, help="Few-shot: images to name of a class; 15 by default."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Few-shot: how many to draw; 600 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Few-shot: of the drawing; 0 by default.")
    ] = None,
    episode_file: Annotated[
        Path | None, typer.Option(help="Few-shot: a CSV of fixed episodes (docs/fewshot.md).")
    ] = None,
    within: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="Few-shot: only class folders in this one of DATA."),
    ] = None,
    engine_option: options.EngineSetting = None,
    batch: options.Batch = None,
    threads: options.Threads = None,
) -> None:
    """Score a bundle on labelled images, on the engine that will serve it.

    Classes: accuracy (top-1), top-5 where there are more than five, recall of each class.
    Masks: IoU of each class over the whole set, their mean, pixel accuracy. Masks hold class indices, or in RGB files
    the classes' colors; label 255 and what is of no class do not count.
    Captions: BLEU-4 and CIDEr against those of a file {"image.jpg": ["a caption", ...]} beside the images.
    Few-shot: mean accuracy over episodes of classes that the bundle need not know, with its 95 % interval: of bundles
    that embed, and of classifiers where a few-shot option is given.

    \b
    Examples:
      dlcv-infer evaluate camvid-lraspp ~/data/camvid/val --engine ort
      dlcv-infer evaluate bundles/cnn ~/data/cifar10 --format json --confusion confusion.png
      dlcv-infer evaluate bundles/fcn validation.zip --pairs "{}_sat.jpg" "{}_mask.png" --record
      dlcv-infer evaluate bundles/captioner ~/data/flickr8k/test_captions.json
      dlcv-infer evaluate bundles/protonet omniglot.zip --within Korean --ways 20 --shots 1 --shots 5
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.evaluate.evaluation import Evaluation
    from dlcv.runtime.fewshot.evaluation import EpisodeOptions
    from dlcv.runtime.running.predictor import load

    opened = open_bundle(bundle)
    task = opened.manifest.task
    given = {"ways": ways, "queries": queries, "episodes": episodes, "seed": seed}
    drawing: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    drawing |= {"shots": tuple(shots)} if shots else {}
    by_episodes = bool(drawing or episode_file or within)
    kind = "embed" if by_episodes and task == "classify" else task
    _require_agreeing(kind, by_episodes=by_episodes, labels=bool(confusion or record))
    _require_keepable(opened, confusion=confusion, record=record, data_name=data_name)
    if drawing and episode_file:
        raise InputError(
            f"--episode-file fixes the episodes; leave out {', '.join(f'--{n}' for n in drawing)}"
        )
    images, work = (
        _few_shot_work(data, within or (), EpisodeOptions(**drawing, file=episode_file))
        if kind == "embed"
        else _work(data, opened.manifest, pairs=pairs)
    )
    outputs = ("embedding",) if kind == "embed" else None
    with loading(engine_option, threads=threads, batch=batch) as settings:
        predictor = load(
            opened, engine=engine, precision=precision, outputs=outputs, options=settings
        )
    with predictor, _progress(images) as advance:
        scored = work(predictor, on_progress=advance)
    _print(scored.record(), format)
    for line in scored.refused:
        say(line)
    if isinstance(scored, Evaluation):
        name = data_name or data.resolve().name
        _keep(scored, opened, confusion=confusion, data_name=name if record else None)
    if scored.refused:
        raise typer.Exit(EXIT_SOME_REFUSED)


def _work(
    data: Path, manifest: Manifest, *, pairs: tuple[str, str]
) -> tuple[int, Callable[..., Scored]]:
    """Return how many images there are, and what scores a predictor on them."""
    if manifest.task == "caption":
        from dlcv.runtime.caption.captioned_images import captioned_images
        from dlcv.runtime.caption.evaluation import evaluate_captions

        captioned = captioned_images(data)
        return len(captioned), partial(evaluate_captions, items=captioned)
    from dlcv.runtime.evaluate.evaluation import evaluate as evaluate_labels
    from dlcv.runtime.evaluate.labelled import labelled_images

    names = [info.name for info in manifest.classes]
    items = labelled_images(data, task=manifest.task, classes=names, patterns=pairs)
    return len(items), partial(evaluate_labels, items=items)


def _few_shot_work(
    data: Path, within: Sequence[str], drawing: EpisodeOptions
) -> tuple[int, Callable[..., Scored]]:
    """Return how many images there are, and what scores a predictor on episodes of them."""
    from dlcv.runtime.fewshot.evaluation import evaluate_episodes
    from dlcv.runtime.fewshot.support import support_images

    images = support_images(data, within=within)
    count = sum(len(of_class) for of_class in images.values())
    return count, partial(evaluate_episodes, images=images, options=drawing)


def _require_agreeing(kind: str, *, by_episodes: bool, labels: bool) -> None:
    from dlcv.runtime.errors import InputError

    if labels and kind in ("caption", "embed"):
        raise InputError(
            "--confusion and --record are for classes and masks, not for captions and episodes"
        )
    if by_episodes and kind != "embed":
        raise InputError(
            f"few-shot options, such as --ways and --shots, are for bundles that embed or classify, not {kind}"
        )


def _require_keepable(
    bundle: Bundle, *, confusion: Path | None, record: bool, data_name: str | None
) -> None:
    """Check before the work what `_keep` needs."""
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.evaluate.confusion_matrix import require_confusion_file
    from dlcv.runtime.evaluate.evaluation import require_recordable

    if data_name is not None and not record:
        raise InputError("--data-name is for what --record writes; give both or neither")
    if confusion is not None:
        require_confusion_file(confusion)
    if record:
        require_recordable(bundle)


def _keep(
    scored: Evaluation, bundle: Bundle, *, confusion: Path | None, data_name: str | None
) -> None:
    """Say what there is to say of labels, and write what was asked for. data_name: None records nothing."""
    from dlcv.runtime.evaluate.confusion_matrix import save_confusion
    from dlcv.runtime.evaluate.evaluation import recorded

    for line in scored.notes:
        say(line)
    if confusion is not None:
        title = f"{bundle.manifest.name}: {scored.score}"
        save_confusion(confusion, scored.matrix, names=scored.class_names, title=title)
    if data_name is not None:
        recorded(bundle, scored, data=data_name)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of images on a terminal; elsewhere nothing."""
    import sys

    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        row = bar.add_task("images", total=total)
        yield lambda: bar.advance(row)


def _print(record: dict[str, Any], format: Literal["text", "json"]) -> None:
    import msgspec

    from dlcv.runtime.bundle.report import table

    if format == "json":
        print(msgspec.json.encode(record).decode())
        return
    intervals = {"accuracy": record.get("interval")} | record.get("intervals", {})
    rows = []
    for name, value in record.items():
        if name in _NOT_PRINTED:
            continue
        for key, figure in value.items() if isinstance(value, dict) else [(name, value)]:
            shown = round(figure, 4) if isinstance(figure, float) else figure
            interval = intervals.get(key) or intervals.get(f"{key} ±")
            more = f" ± {interval:.4f}" if interval is not None else ""
            rows.append((key, f"{'-' if shown is None else shown}{more}"))
    rows.append(("ran", _what_ran(record["ran"])))
    print("\n".join(table(rows)))


def _what_ran(ran: object) -> str:
    keys = ("engine", "engine_version", "device", "precision")
    return " ".join(str(ran[key]) for key in keys) if isinstance(ran, dict) else ""
