"""`dlcv-infer bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcv.cli.export import options as source_options
from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say
from dlcv.cli.text import numbers_from_text, words_from_text

if TYPE_CHECKING:
    from dlcv.export.sources import ExportSource
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.bundle.manifest import Manifest
    from dlcv.runtime.measure.bench import Contestant


def bench(
    bundle: options.BundlePath,
    engines: options.Engines = None,
    precision: options.PrecisionName = None,
    batches: Annotated[
        str, typer.Option("--batches", help="Those whose calls take over 5 s are left out.")
    ] = "1,2,4,8,16,32,64,128",
    threads: options.Threads = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of photos; those of dlcv by default.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Longer side in pixels, if the bundle's size varies.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Of timing, for each figure and batch size.")
    ] = 3.0,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="What the bundle was exported from: PyTorch, eager and compiled, runs beside the engines.",
        ),
    ] = None,
    weights: source_options.Weights = None,
    random: source_options.Random = False,
    set_: source_options.Settings = None,
    task: source_options.TaskName = None,
    classes: source_options.Classes = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for bench.json and bench.png.")
    ] = None,
) -> None:
    """Measure how fast a bundle runs here.

    Three figures: engine only (arrays to arrays), host to host (decoded pixels to results), file to file
    (photos to result files). Plain ONNX Runtime, called as most people do, runs in the same rotation; x plain
    is the ratio to it. Times are medians and percentiles of a call.

    \b
    Examples:
      dlcv-infer bench camvid-lraspp --out report
      dlcv-infer bench pets-vit --engines ort,openvino --batches 1,8,32 --images photos/
      dlcv-infer bench bundles/mobilenet --checkpoint torchvision:mobilenet_v2 --out report
      dlcv-infer bench bundles/unet --checkpoint py:unet.py:UNet --set classes=3 --weights w.pth --task segment
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.bundle.report import table
    from dlcv.runtime.machine.system import require_matplotlib
    from dlcv.runtime.measure.bench import BATCHES, BenchRequest
    from dlcv.runtime.measure.bench import bench as measure
    from dlcv.runtime.measure.plot import save_plot
    from dlcv.runtime.measure.tables import save_json, table_from_report

    if out is not None:
        require_matplotlib()
    numbers = numbers_from_text(batches, option="--batches") or BATCHES
    opened = open_bundle(bundle)
    with loading() as settings:
        request = BenchRequest(
            engines=words_from_text(engines),
            precision=precision,
            batches=numbers,
            threads=threads,
            seconds=seconds,
            images=images,
            size=size,
            baselines=_baselines(
                opened,
                checkpoint,
                threads=threads,
                weights=weights,
                random=random,
                set_=set_,
                task=task,
                classes=classes,
            ),
            on_progress=settings.on_progress,
        )
        report = measure(opened, request)
    print("\n".join(table(table_from_report(report))))
    for failure in report.failures:
        say(failure)
    if out is not None:
        save_json(report, out / "bench.json")
        save_plot(report, out / "bench.png")
        say(f"wrote {out / 'bench.json'} and {out / 'bench.png'}")


def _baselines(
    bundle: Bundle, checkpoint: str | None, *, threads: int | None, **given: Any
) -> tuple[Contestant, ...]:
    """Return PyTorch's contestants. given: options of the source that `checkpoint` names."""
    from dlcv.runtime.errors import InputError

    if checkpoint is None:
        if unused := [name.strip("_") for name, value in given.items() if value]:
            raise InputError(
                f"{', '.join(f'--{name}' for name in unused)} says what --checkpoint loads; give that too"
            )
        return ()
    source_options.require_extra()
    from dlcv.export.baselines import torch_baselines

    source = source_options.loaded_source(checkpoint, **given)
    _require_same(bundle.manifest, source)
    return torch_baselines(source, threads=threads)


def _require_same(manifest: Manifest, source: ExportSource) -> None:
    """Refuse a checkpoint whose network takes or gives something else than the bundle's."""
    from dlcv.runtime.errors import InputError

    pairs = {
        "task": (source.task, manifest.task),
        "number of classes": (len(source.classes), len(manifest.classes)),
        "channels": (source.preprocessing.channels, manifest.preprocessing.channels),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise InputError(
                f"--checkpoint has {name} {theirs}, the bundle {manifest.name!r} {ours}; give the options that it was exported "
                "with, such as --set and --task"
            )
