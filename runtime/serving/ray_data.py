"""One job on many machines, over Ray Data: images in, Parquet out.

    inputs -> pieces of work -> Ray's actors, a loaded bundle each -> here -> parts/part-00000.parquet

The answers travel to the machine that started the job, and it alone writes. Workers that write would need a folder that
all machines share, and a lock on it that spans them; Ray's own `write_parquet` leaves files of a run that was killed, and
writes them again in the next. Here one process holds the results folder's lock, gives each part its name once it is whole, and
knows what is done. An answer is small against the image that it comes from, so this machine is not what limits the job.

The bundle travels too: its files go into Ray's object store, and each worker verifies what it unpacks. Images are not sent:
each machine reads its own, so paths and URLs must be the same for all.

Ray Data starts a worker that was lost anew, and repeats the piece of work that it had, without end: see `Worker`, which
ends it.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ray
import ray.data
import ray.exceptions

from dlcv.runtime.bundle import MANIFEST, Bundle
from dlcv.runtime.engines import engine_entry
from dlcv.runtime.errors import EngineError, InputError
from dlcv.runtime.images import Refused
from dlcv.runtime.images.parquet_inputs import RowGroup
from dlcv.runtime.images.sources import NamedImage
from dlcv.runtime.machine.system import cpu_count
from dlcv.runtime.results.lines import text_from_cell
from dlcv.runtime.results.parquet_parts import ParquetParts
from dlcv.runtime.running.job import Summary
from dlcv.runtime.serving.ray_worker import (
    IMAGES_A_PIECE,
    Attempts,
    Named,
    Worker,
    WorkerOptions,
    raise_failure,
    read_group,
    row_from_group,
    row_from_images,
    rows_in,
    table_from_work,
)

LOCAL = "local"
Input: TypeAlias = "NamedImage | Refused | RowGroup"
Groups: TypeAlias = "list[tuple[RowGroup, list[int]]]"
"""Row groups, and which of their rows are wanted."""

_PIECES_A_WORKER = 4  # at least, so that none waits long for the last
_CONNECT_SECONDS = 10.0
_LISTED_REFUSALS = 1000  # how many reasons a summary keeps; all are in the parts
_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RaySystemError,
)


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """What runs, and where.

    address: "local" starts Ray on this machine for the job; "auto" and "HOST:6379" join a cluster, as in `ray.init`. workers: processes with a loaded bundle; None: as many as the cluster has CPUs for, or
    GPUs, where the engine needs one.
    """

    bundle: Bundle
    options: WorkerOptions
    address: str = LOCAL
    workers: int | None = None


@contextmanager
def joined(job: RayJob) -> Iterator[None]:
    """Start Ray, or join a cluster, quietly, and leave it at the end; where this process has joined already, use that.

    Raises:
        InputError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what Ray sends to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else C++ lines on stderr
    is_local = job.address == LOCAL
    _require_answer(job.address)
    local: dict[str, Any] = {
        "num_cpus": max(cpu_count(), (job.workers or 1) * job.options.threads),
        "include_dashboard": False,
    }
    try:
        with _no_stderr():
            ray.init(
                job.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(local if is_local else {}),
            )
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise _no_cluster(job.address, _first_line(e)) from e
    try:
        yield
    finally:
        ray.shutdown()


def run_ray_job(
    job: RayJob,
    inputs: Iterable[Input],
    parts: ParquetParts,
    *,
    on_progress: Callable[[], object] = lambda: None,
) -> Summary:
    """Answer every input on the Ray cluster that was `joined`, and write the answers to the parts.

    The list of inputs is held in memory. on_progress: called once for each image.

    Raises:
        OutputError: results cannot be written; the parts before stay.
        EngineError: the engine failed, or workers died again and again.
        DlcvError: the bundle does not load on a worker.
    """
    summary = Summary()
    images, groups = _not_done(inputs, parts, summary)
    expected = len(images) + sum(len(rows) for _, rows in groups)
    for _ in range(summary.skipped):
        on_progress()
    for table in _answers(job, images, groups) if expected else ():
        parts.add(table)
        _count(table, summary)
        for _ in range(len(table)):
            on_progress()
    parts.finish()
    if (given := summary.answered + summary.refused) != expected:
        raise EngineError(f"Ray gave {given} answers to {expected} images; run again with --resume")
    return summary


def _not_done(
    inputs: Iterable[Input], parts: ParquetParts, summary: Summary
) -> tuple[list[Named], Groups]:
    """Return the images, and of the row groups the rows, that no part holds yet."""
    done = parts.done
    images: list[Named] = []
    groups: Groups = []

    def is_new(name: str) -> bool:
        if done[name] > 0:
            done[name] -= 1
            summary.skipped += 1
            return False
        return True

    for item in inputs:
        if isinstance(item, RowGroup):
            if rows := [row for row in range(item.count) if is_new(item.name(row))]:
                groups.append((item, rows))
        elif isinstance(item, Refused):
            if is_new(item.name):
                images.append((item.name, item))
        elif is_new(item.path):
            images.append((item.path, _for_all_machines(item.path)))
    return images, groups


def _for_all_machines(path: str) -> str:
    """Return a path that does not depend on the folder in which a process runs."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100  # Path.absolute keeps ".."


def _require_answer(address: str) -> None:
    """Check that somebody listens at HOST:PORT; Ray itself tries for minutes.

    Raises:
        InputError: nobody does, or it is an address of Ray Client, over which Ray Data does not run.
    """
    if address.startswith("ray://"):
        raise InputError(
            f"Ray Data does not run over Ray Client ({address}); run this on a machine of the cluster with --ray auto, or "
            "give HOST:6379"
        )
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as e:
        raise _no_cluster(address, str(e)) from e


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        f"no Ray cluster can be joined at {address!r} ({reason}); start one with ray start --head, or give --ray local"
    )


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Let nothing reach file descriptor 2: Ray's C++ says there which level of lines it was given."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _answers(job: RayJob, images: list[Named], groups: Groups) -> Iterator[Any]:
    """Yield tables of rows, as workers finish them.

    Raises:
        EngineError, DlcvError: see `run_ray_job`.
    """
    workers = job.workers or _workers_that_fit(job)
    size = max(1, min(IMAGES_A_PIECE, len(images) // (workers * _PIECES_A_WORKER)))
    rows = [row_from_group(group, wanted) for group, wanted in groups]
    rows += [row_from_images(images[at : at + size], str(at)) for at in range(0, len(images), size)]
    pieces = sum(math.ceil(len(wanted) / IMAGES_A_PIECE) for _, wanted in groups)
    pieces += math.ceil(len(images) / size)
    dataset = _dataset(job, rows, workers=min(workers, pieces), reads=bool(groups))
    try:
        for block in dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for row in block.to_pylist():
                if row["failure"]:
                    raise_failure(row["failure"])
                yield rows_in(row["answers"])
    except _LOST as e:
        raise EngineError(
            f"Ray gave up, because workers died again and again ({_first_line(e)}); perhaps they need more memory, so "
            "try fewer --workers, and go on with --resume"
        ) from e


def _dataset(job: RayJob, rows: list[dict[str, Any]], *, workers: int, reads: bool) -> Any:
    """Return the dataset of answers. It computes as it is read. reads: some rows are groups, to be read before."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset: Any = ray.data.from_arrow([table_from_work([row]) for row in rows])
    dataset.context.target_max_block_size = 1  # a row is a block: see `ray_worker`
    if reads:
        dataset = dataset.map_batches(
            read_group,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=workers),
            num_cpus=0,  # the workers have them all
        )
    attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    return dataset.map_batches(
        Worker,
        fn_constructor_args=(job.options, ray.put(_files(job.bundle)), attempts.remote()),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=_cpus_of_a_worker(job),
        num_gpus=1 if _needs_gpu(job) else None,
    )


def _files(bundle: Bundle) -> dict[str, bytes]:
    manifest = Path(bundle.path, MANIFEST).read_bytes()
    return {MANIFEST: manifest} | {name: bundle.read(name) for name in bundle.manifest.files}


def _workers_that_fit(job: RayJob) -> int:
    """Return how many workers the machines of the cluster have room for, 1 at least."""
    cpus = _cpus_of_a_worker(job)
    if _needs_gpu(job):
        return max(1, sum(int(node.get("GPU", 0)) for node in _machines()))
    return max(1, sum(int(node.get("CPU", 0)) // cpus for node in _machines()))


def _cpus_of_a_worker(job: RayJob) -> int:
    """Return the CPUs that a worker asks for: its threads, but no more than a machine has."""
    largest = max((int(node.get("CPU", 0)) for node in _machines()), default=1)
    return max(1, min(job.options.threads, largest))


def _needs_gpu(job: RayJob) -> bool:
    if job.options.engine != "auto":
        return engine_entry(job.options.engine).needs_gpu
    return any(node.get("GPU", 0) for node in _machines())


def _machines() -> list[dict[str, float]]:
    """Return what each machine of the cluster has."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray is not typed all over
    return [node["Resources"] for node in nodes if node["Alive"]]


def _count(table: Any, summary: Summary) -> None:
    for row in table.select(["image", "error", "note"]).to_pylist():
        name, error, note = text_from_cell(row["image"]), row["error"], row["note"]
        if error is None:
            summary.answered += 1
            if note is not None:
                summary.noted += 1
                summary.note = summary.note or f"{name}: {note}"
            continue
        summary.refused += 1
        if len(summary.refusals) < _LISTED_REFUSALS:
            summary.refusals.append(Refused(source=name, reason=error))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
