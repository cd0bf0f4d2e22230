"""What the task commands do alike: load, run the job, report, choose the exit code."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from dlcv.cli.edge import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SOME_REFUSED
from dlcv.cli.text import key_values

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import Precision
    from dlcv.runtime.caption.beam_search import SearchOptions
    from dlcv.runtime.engines import EngineOptions
    from dlcv.runtime.results import WriteOptions
    from dlcv.runtime.results.writers import Writer
    from dlcv.runtime.running.job import Answering, Summary
    from dlcv.runtime.running.predictor import Predictor

_REFUSALS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What a task command was asked for. outputs: the graph's outputs that it needs; if_present: uses, where there are some.

    devices: numbers of GPUs, such as "0,1". search: of a captioner. ray: a cluster's address; workers, column: see `cli/infer/ray.py`.
    """

    command: str
    images: list[str]
    model: str | None
    engine: str
    precision: Precision | None
    out: Path | None
    write: WriteOptions
    outputs: tuple[str, ...]
    if_present: tuple[str, ...] = ()
    batch: int | None
    devices: str | None = None
    engine_settings: Sequence[str] = ()
    threads: int | None = None
    size: int | None = None
    depth: int | None = None
    all_files: bool = False
    resume: bool = False
    fail_fast: bool = False
    overwrite: bool = False
    files_by_default: bool = False
    search: SearchOptions | None = None
    ray: str | None = None
    workers: int | None = None
    column: str | None = None


def run_task(request: TaskRequest) -> None:
    """Run a task command to its end.

    Raises:
        typer.Exit: see `answer_all`.
        DlcvError: the bundle, the engine, the results folder or the options do not fit.
    """
    from dlcv.cli.infer.ray import answer_on_ray, require_ray

    if request.ray is not None:
        answer_on_ray(request)
        return
    require_ray(request)
    with load_bundle(request) as predictor:
        answer_all(request, predictor)


def answer_all(request: TaskRequest, answering: Answering) -> None:
    """Answer every image of a request, and report.

    Raises:
        typer.Exit: with code 1 when nothing could run, 3 when some inputs were refused.
        DlcvError: the results folder does not fit.
    """
    from dlcv.runtime.images.sources import expand_inputs
    from dlcv.runtime.running.job import run_job

    left_out: Counter[str] = Counter()
    folder = _folder(request)
    writer = _writer(request, answering, folder)
    try:
        with progress(lambda: _total(request)) as advance:
            summary = run_job(
                answering,
                expand_inputs(
                    request.images,
                    listing=listing(),
                    all_files=request.all_files,
                    left_out=left_out,
                ),
                writer,
                fail_fast=request.fail_fast,
                on_progress=advance,
            )
    except KeyboardInterrupt:
        raise interrupted(folder) from None
    report(summary, folder=folder, refused_before=writer.refused_before, left_out=left_out)


def interrupted(folder: Path | None) -> typer.Exit:
    """Say that a run was interrupted, and how to go on; return the exit."""
    say("interrupted" + (f"; --out {folder} --resume goes on from here" if folder else ""))
    return typer.Exit(EXIT_INTERRUPTED)


def say(text: str) -> None:
    """Print a line for people: stderr."""
    print(text, file=sys.stderr)


def load_bundle(request: TaskRequest) -> Predictor:
    """Load the bundle of a request, or the built-in one of its command, which is said.

    Raises:
        DlcvError: the bundle or the engine do not fit.
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.images import DecodeOptions
    from dlcv.runtime.running.devices import devices_from_text
    from dlcv.runtime.running.predictor import load

    bundle = bundle_of(request)
    with loading(request.engine_settings, threads=request.threads, batch=request.batch) as options:
        opened = open_bundle(bundle)
        there = {spec.name for spec in opened.graph().outputs}
        predictor = load(
            opened,
            engine=request.engine,
            precision=request.precision,
            outputs=(*request.outputs, *(name for name in request.if_present if name in there)),
            options=options,
            longest_side=request.size,
            search=request.search,
            decode=DecodeOptions(depth=request.depth),
            devices=None if request.devices is None else devices_from_text(request.devices),
        )
    if predictor.why:
        say(predictor.why)
    return predictor


def bundle_of(request: TaskRequest) -> str:
    """Return the folder or name of a request's bundle: the built-in one of its command where none is named, which is said.

    Raises:
        InputError: none ships with dlcv for this command.
    """
    from dlcv.runtime.bundle import BUILTIN
    from dlcv.runtime.bundle.ready import ready_folder
    from dlcv.runtime.errors import InputError

    if request.model is not None:
        return request.model
    if request.command not in BUILTIN:
        raise InputError(
            f"no bundle for {request.command} ships with dlcv; name one with -m BUNDLE"
        )
    bundle = BUILTIN[request.command]
    if ready_folder(bundle):
        say(f"no -m given: using the bundle {bundle} (dlcv-infer info {bundle})")
    return bundle


@contextmanager
def loading(
    settings: Sequence[str] | None = None, *, threads: int | None = None, batch: int | None = None
) -> Iterator[EngineOptions]:
    """Give the options for loading an engine; a long load, such as a build, shows a progress bar.

    settings: KEY=VALUE each.

    Raises:
        InputError: a setting is not KEY=VALUE.
    """
    from dlcv.runtime.engines import EngineOptions

    values = key_values(settings, "--engine-option")
    with _load_progress() as tell:
        yield EngineOptions(threads=threads, batch_size=batch, settings=values, on_progress=tell)


@contextmanager
def _load_progress() -> Iterator[Callable[[str, float | None], None]]:
    """Show a bar on a terminal from the first word of an engine on; elsewhere each new word as a line."""
    if not sys.stderr.isatty():
        last = ""

        def say_once(words: str, _: float | None) -> None:
            nonlocal last
            if words != last:
                say(words)
            last = words

        yield say_once
        return
    from contextlib import ExitStack

    with ExitStack() as stack:
        bar: Any = None

        def show(words: str, share: float | None) -> None:
            nonlocal bar
            if bar is None:
                from rich.console import Console
                from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

                columns: Any = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
                bar = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
                bar.add_task(words, total=1.0)
            bar.update(0, description=words, completed=share, total=None if share is None else 1.0)

        yield show


def _folder(request: TaskRequest) -> Path | None:
    if request.out is not None:
        return None if str(request.out) == "-" else request.out
    if not request.files_by_default:
        return None
    if request.resume:
        return Path(f"dlcv-{request.command}")
    return _new_folder(f"dlcv-{request.command}")


def _new_folder(name: str) -> Path:
    """Make the first folder of NAME, NAME-2 and so on that is not there; two runs never get the same one.

    Raises:
        OutputError: it cannot be made.
    """
    from dlcv.runtime.machine.atomic_files import output_error

    for suffix in chain([""], (f"-{number}" for number in count(2))):
        folder = Path(name + suffix)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as e:
            raise output_error(folder, e) from e
        return folder
    raise AssertionError("counting never ends")


def _writer(request: TaskRequest, answering: Answering, folder: Path | None) -> Writer:
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.results.folder import FolderWriter
    from dlcv.runtime.results.writers import StreamWriter

    searched = {"search": asdict(request.search)} if request.search else {}
    if folder is not None:
        return FolderWriter(
            folder,
            request.write,
            run=answering.description() | searched,
            resume=request.resume,
            overwrite=request.overwrite,
        )
    if request.resume or request.overwrite or request.write.needs_folder:
        raise InputError("this needs a results folder: give --out FOLDER")
    return StreamWriter(_write_stdout, request.write)


def listing() -> TextIO:
    """Return standard input as lines that may hold any file's name, also one that is not UTF-8."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape", newline="\n")
    return sys.stdin


def _on_one_line(text: str) -> str:
    """Return a text with its control characters as escapes: a file's name may hold line ends."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _total(request: TaskRequest) -> int | None:
    """Return how many images there are; of a list on standard input nobody knows."""
    from dlcv.runtime.images.sources import expand_inputs

    if "-" in request.images:
        return None
    return sum(1 for _ in expand_inputs(request.images, all_files=request.all_files))


@contextmanager
def progress(total: Callable[[], int | None]) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal; elsewhere nothing, and the total is not asked for."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns: Any = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("images", total=total(), rate="")

        def advance() -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, rate=f"{speed:.1f} images/s" if speed else "")

        yield advance


def report(
    summary: Summary,
    *,
    folder: Path | None,
    refused_before: int,
    left_out: Counter[str],
    errors: str = "errors.jsonl",
) -> None:
    """Say what a job did. errors: what in the folder lists all that was refused.

    Raises:
        typer.Exit: with code 1 when nothing could run, 3 when some inputs were refused.
    """
    from dlcv.runtime.images.sources import left_out_line

    for refused in summary.refusals[:_REFUSALS_SHOWN]:
        say(_on_one_line(f"refused {refused.name}: {refused.reason}"))
    if (hidden := summary.refused - _REFUSALS_SHOWN) > 0:
        say(f"refused {hidden} more" + (f", listed in {folder / errors}" if folder else ""))
    if summary.noted:
        more = f" ({summary.noted - 1:,} more images have a note)" if summary.noted > 1 else ""
        say(_on_one_line(summary.note) + more)
    if left_out:
        say(left_out_line(left_out))
    parts = [f"{summary.answered} answered"]
    if summary.skipped:
        parts.append(f"{summary.skipped} done before")
    if summary.refused or refused_before:
        parts.append(f"{summary.refused + refused_before} refused")
    say(", ".join(parts) + (f"; results in {folder}" if folder else ""))
    if summary.ended_early:
        more = f"; --out {folder} --resume goes on from here" if folder else ""
        say(f"ended at the first image that was refused, because of --fail-fast{more}")
        raise typer.Exit(EXIT_FAILED)
    if not summary.answered and not summary.skipped:
        raise typer.Exit(EXIT_FAILED)
    if summary.refused or refused_before:
        raise typer.Exit(EXIT_SOME_REFUSED)
