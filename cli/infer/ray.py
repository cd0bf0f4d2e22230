"""`--ray`: a task command on the machines of a Ray cluster."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dlcv.cli.infer.task import (
    TaskRequest,
    bundle_of,
    interrupted,
    listing,
    progress,
    report,
)
from dlcv.cli.text import key_values

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.images.parquet_inputs import RowGroup
    from dlcv.runtime.images.sources import NamedImage
    from dlcv.runtime.results import Refused, WriteOptions
    from dlcv.runtime.results.parquet_rows import RowKind
    from dlcv.runtime.serving.ray_worker import WorkerOptions

_THREADS = 1  # a worker: as many workers as cores answer more than one with them all


def require_ray(request: TaskRequest) -> None:
    """Check that a request without --ray has none of the options that need it.

    Raises:
        InputError: it has.
    """
    from dlcv.runtime.errors import InputError

    for name in ("workers", "column"):
        if getattr(request, name) is not None:
            raise InputError(f"--{name} is for --ray; give --ray local, or leave it out")


def answer_on_ray(request: TaskRequest) -> None:
    """Answer every image of a request on a cluster, and report.

    Raises:
        typer.Exit: with code 1 when nothing could run, 3 when some inputs were refused.
        DlcvError: an option, the bundle, the results folder or the cluster does not fit, or Ray is missing.
    """
    folder = _fitting_folder(request)
    _require_installed()
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.results.parquet_parts import ParquetParts
    from dlcv.runtime.serving.ray_data import RayJob, joined, run_ray_job

    bundle = open_bundle(bundle_of(request))
    options = _worker_options(request, bundle)
    job = RayJob(bundle=bundle, options=options, address=str(request.ray), workers=request.workers)
    left_out: Counter[str] = Counter()
    run = _run_record(request, bundle, options.write)
    try:
        with (
            redirect_stdout(sys.stderr),  # Ray prints there when it lost a worker
            joined(job),
            ParquetParts(
                folder, run=run, resume=request.resume, overwrite=request.overwrite
            ) as parts,
        ):
            inputs = list(_inputs(request, left_out))
            with progress(lambda: sum(getattr(i, "count", 1) for i in inputs)) as advance:
                summary = run_ray_job(job, inputs, parts, on_progress=advance)
    except KeyboardInterrupt:
        raise interrupted(folder) from None
    report(
        summary,
        folder=folder,
        refused_before=parts.refused_before,
        left_out=left_out,
        errors="parts (column error)",
    )


def _fitting_folder(request: TaskRequest) -> Path:
    """Return the results folder of a request all of whose options fit --ray."""
    from dlcv.runtime.errors import InputError

    if request.devices is not None:
        raise InputError(
            "--devices is for the GPUs of this machine, --ray for a cluster; leave one of them out"
        )
    write = request.write
    if request.out is None or str(request.out) == "-":
        raise InputError("--ray writes Parquet files: give --out FOLDER")
    as_lines = request.command == "embed" and write.embeddings is None
    if write.lines != "jsonl" or write.embeddings == "npz" or as_lines:
        raise InputError("--ray writes Parquet files; leave out --format")
    for option, is_given in (("--overlay", write.overlays), ("--confidence", write.confidence)):
        if is_given:
            raise InputError(f"{option} is not for --ray, whose results are Parquet; leave it out")
    if request.fail_fast:
        raise InputError("--fail-fast is not for --ray, whose workers do not wait for each other")
    return request.out


def _require_installed() -> None:
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    if not all(map(is_importable, ("ray.data", "pyarrow"))):
        raise InputError("--ray needs Ray: pip install 'dlcv[ray]'")


def _worker_options(request: TaskRequest, bundle: Bundle) -> WorkerOptions:
    """Return how workers load the bundle, which is checked here first: that is quicker than a cluster.

    Raises:
        BundleError: it lacks the precision or an output.
        InputError: the size does not fit.
    """
    from dlcv.runtime.engines import engine_entry, engine_model
    from dlcv.runtime.images import DecodeOptions
    from dlcv.runtime.running.predictor import scaled
    from dlcv.runtime.serving.ray_worker import WorkerOptions

    scaled(bundle, request.size)
    target = "cpu" if request.engine == "auto" else engine_entry(request.engine).target
    engine_model(bundle, precision=request.precision, outputs=request.outputs, target=target)
    return WorkerOptions(
        kind=cast("RowKind", request.command),
        outputs=request.outputs,
        engine=request.engine,
        precision=request.precision,
        threads=request.threads or _THREADS,
        batch_size=request.batch,
        settings=key_values(request.engine_settings, "--engine-option"),
        longest_side=request.size,
        decode=DecodeOptions(depth=request.depth),
        write=request.write,
        several_labels=bundle.manifest.threshold is not None,
    )


def _run_record(request: TaskRequest, bundle: Bundle, write: WriteOptions) -> dict[str, Any]:
    """Return what `run.json` says before anything has run."""
    import dlcv
    from dlcv.runtime.running.predictor import scaled

    preprocessing = scaled(bundle, request.size)
    return {
        "dlcv": dlcv.__version__,
        "bundle": bundle.manifest.name,
        "bundle_sha256": bundle.sha256,
        "task": bundle.manifest.task,
        "engine": request.engine,
        "precision": request.precision,
        "resize": preprocessing.resize,
        "input_size": list(preprocessing.size),
        "ray": request.ray,
        "options": asdict(write) | {"parts": "parquet"},
    }


def _inputs(
    request: TaskRequest, left_out: Counter[str]
) -> Iterator[NamedImage | Refused | RowGroup]:
    """Yield the images and Parquet rows that the command line names, in its order."""
    from dlcv.runtime.images.parquet_inputs import is_parquet, parquet_images
    from dlcv.runtime.images.sources import NamedImage, expand_inputs

    for text in request.images:
        if text == "-" or not is_parquet(text, column=request.column):
            yield from expand_inputs(
                [text], listing=listing(), all_files=request.all_files, left_out=left_out
            )
            continue
        for image in parquet_images(text, column=request.column):
            yield NamedImage(path=image, name="") if isinstance(image, str) else image
