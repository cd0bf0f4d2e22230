"""`dlcv-infer fewshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import TaskRequest, answer_all, load_bundle, say

if TYPE_CHECKING:
    from dlcv.runtime.fewshot.prototypes import Prototypes
    from dlcv.runtime.running.predictor import Predictor


def fewshot(
    queries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...",
            help="Images: files, folders, quoted globs, URLs, or - for a list on standard input.",
            show_default=False,
        ),
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(help="Examples: a folder, ZIP or tar with one folder a class."),
    ] = None,
    prototypes: Annotated[
        Path | None,
        typer.Option(help="File of prototypes; with --support too, its classes come besides."),
    ] = None,
    save_prototypes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the prototypes in this NPZ file.")
    ] = None,
    list_classes: Annotated[
        bool, typer.Option("--list", help="Print the classes and how many examples each had.")
    ] = False,
    model: options.Model = None,
    out: options.Out = None,
    format: options.Format = "jsonl",
    top: Annotated[int, typer.Option(min=1, help="Classes a line, likeliest first.")] = 5,
    overlay: options.Overlay = False,
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
    """Name what is in each image, of classes that are known by a few examples.

    A class is the mean of its examples' embeddings, its prototype; an image is of the class whose prototype is nearest.
    Runs with any bundle that gives embeddings, and writes what classify writes.

    \b
    Examples:
      dlcv-infer fewshot photo.jpg --support examples/                    # examples/cat/*.jpg, examples/dog/*.jpg
      dlcv-infer fewshot --support examples/ --save-prototypes pets.npz
      dlcv-infer fewshot photos/ --prototypes pets.npz --out results --overlay
      dlcv-infer fewshot --prototypes pets.npz --support more.zip --save-prototypes pets.npz
      dlcv-infer fewshot --prototypes pets.npz --list
    """
    from dlcv.runtime.bundle.report import table
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.fewshot.prototypes import PrototypeClassifier, Prototypes
    from dlcv.runtime.results import WriteOptions

    if support is None and prototypes is None:
        raise InputError("classes come from --support DIR or --prototypes FILE; give one of them")
    if not (queries or save_prototypes or list_classes):
        raise InputError("nothing to do: give images, --save-prototypes or --list")
    _require_new(save_prototypes, known=prototypes, overwrite=overwrite)
    found = Prototypes.load(prototypes) if prototypes else None
    request = TaskRequest(
        command="fewshot",
        images=queries or [],
        model=model,
        engine=engine,
        precision=precision,
        engine_settings=engine_option or (),
        out=out,
        write=WriteOptions(lines=format, top=top, overlays=overlay),
        outputs=("embedding",),
        batch=batch,
        devices=devices,
        threads=threads,
        depth=depth,
        all_files=all_files,
        resume=resume,
        fail_fast=fail_fast,
        overwrite=overwrite and (out is not None or save_prototypes is None),
    )
    if found is None or support is not None or queries:
        with load_bundle(request) as predictor:
            found = _fitted(predictor, found, support=support)
            if queries:
                with PrototypeClassifier(predictor, found) as classifier:
                    answer_all(request, classifier)
    if save_prototypes is not None:
        found.save(save_prototypes)
        say(f"wrote {len(found.names)} prototypes to {save_prototypes}")
    if list_classes:
        rows = [(n, str(c)) for n, c in zip(found.names, found.counts, strict=True)]
        print("\n".join(table([("class", "examples"), *rows])))


def _fitted(predictor: Predictor, found: Prototypes | None, *, support: Path | None) -> Prototypes:
    from dlcv.runtime.fewshot.prototypes import Prototypes

    if found is None:
        assert support is not None  # one of the two is given
        return Prototypes.fit(predictor, support, on_refused=say)
    return found.extended(predictor, support, on_refused=say) if support else found


def _require_new(path: Path | None, *, known: Path | None, overwrite: bool) -> None:
    from dlcv.runtime.errors import OutputError

    if path is not None and path.exists() and path != known and not overwrite:
        raise OutputError(f"{path} exists; choose another name or give --overwrite")
