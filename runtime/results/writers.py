"""Results to files: lines of JSON or CSV, masks, overlays, maps, embeddings; resumable.

A results folder holds

    results.jsonl   (or results.csv) a line an image, in order; written after the image's other files
    errors.jsonl    a line a refused image, with the reason
    run.json        what ran: bundle, engine, device, precision, settings
    masks/ overlays/ maps/ confidence/      a file an image, as asked for
    embeddings.npz  (or embeddings.parquet)
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, final

from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.images.source import Refused
from dlcv.runtime.machine.atomic_files import (
    AppendFile,
    drop_partial_line,
    output_error,
    write_atomically,
)
from dlcv.runtime.results.base import Record, Result, WriteOptions
from dlcv.runtime.results.embedding import Embedding
from dlcv.runtime.results.embedding_store import EmbeddingStore

_FOLDERS = ("masks", "overlays", "maps", "confidence")
_FILES = (
    "results.jsonl",
    "results.csv",
    "errors.jsonl",
    "run.json",
    "embeddings.npz",
    "embeddings.parquet",
)


class Writer(Protocol):
    """Where results go: `prepare` runs in a pool, in any order; `commit` in the images' order.

    done: images that an earlier run answered or refused, to be passed over as often as counted.
    refused_before: how many of these were refused.
    """

    done: Counter[str]
    refused_before: int

    def prepare(self, result: Result | Refused, name: str) -> Record:
        """Write an image's own files and return its line."""
        ...

    def commit(self, result: Result | Refused, record: Record) -> None:
        """Record that an image is done."""
        ...

    def finish(self) -> None:
        """Write what is written once for all images, after the last one."""
        ...

    def close(self) -> None:
        """Close the files, also after an error."""
        ...


@final
class StreamWriter:
    """Writes lines to a text stream, such as standard output; refused images are not in them."""

    def __init__(self, write: Callable[[str], object], options: WriteOptions) -> None:
        self.done: Counter[str] = Counter()
        self.refused_before = 0
        self._write = write
        self._options = options
        self._header: list[str] | None = None

    def prepare(self, result: Result | Refused, name: str) -> Record:
        """Return the image's line."""
        return record_from_result(result, self._options)

    def commit(self, result: Result | Refused, record: Record) -> None:
        """Write the line."""
        if isinstance(result, Refused):
            return
        if self._options.lines == "jsonl":
            self._write(line_from_record(record))
            return
        row = result.csv_row(record)
        if self._header is None:
            self._header = list(row)
            self._write(csv_line(self._header))
        self._write(csv_line([row.get(column, "") for column in self._header]))

    def finish(self) -> None:
        """Nothing is written once for all."""

    def close(self) -> None:
        """Nothing is open."""


@final
class FolderWriter:
    """Writes a results folder; with `resume`, goes on where a run that was stopped left it."""

    def __init__(
        self,
        folder: Path,
        options: WriteOptions,
        *,
        run: Record,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Create or reopen the folder. run: what `run.json` says of bundle and engine.

        Raises:
            InputError: both `resume` and `overwrite`.
            OutputError: it holds results already, belongs to another run, or cannot be written.
        """
        if resume and overwrite:
            raise InputError(
                "--resume keeps the results and --overwrite replaces them; give only one"
            )
        self.folder = folder
        self._options = options
        run = run | {"options": asdict(options)}
        self._lines_path = folder / f"results.{options.lines}"
        self._prepare_folder(run, resume=resume, overwrite=overwrite)
        self.done = self._done_before() if resume else Counter[str]()
        self.refused_before = _count_lines(folder / "errors.jsonl")
        self._lines = AppendFile(self._lines_path)
        self._errors: AppendFile | None = None
        self._header = _csv_header(self._lines_path) if options.lines == "csv" else None
        self._store = None
        if options.embeddings:
            rows = _count_lines(self._lines_path)
            width = int(run["embedding_width"])
            self._store = EmbeddingStore(
                folder, options.embeddings, width=width, rows=rows, run=run
            )

    def prepare(self, result: Result | Refused, name: str) -> Record:
        """Write the image's own files, each under a temporary name first, and return its line."""
        record = record_from_result(result, self._options)
        if isinstance(result, Refused):
            return record
        files = {}
        for item in result.files(self._options):
            file = f"{item.folder}/{_safe(name)}{item.suffix}"
            write_atomically(self.folder / file, item.write)
            files[item.key] = file
        engine = record.pop("engine")
        return record | files | {"engine": engine}

    def commit(self, result: Result | Refused, record: Record) -> None:
        """Append the image's line; from then on a resumed run passes it over."""
        if isinstance(result, Refused):
            if self._errors is None:
                self._errors = AppendFile(self.folder / "errors.jsonl")
            self._errors.append(line_from_record(record).encode())
            return
        if self._store is not None and isinstance(result, Embedding):
            self._store.append(result.vector)
        if self._options.lines == "jsonl":
            self._lines.append(line_from_record(record).encode())
            return
        row = result.csv_row(record)
        if self._header is None:
            self._header = list(row)
            self._lines.append(csv_line(self._header).encode())
        self._lines.append(csv_line([row.get(column, "") for column in self._header]).encode())

    def finish(self) -> None:
        """Write the matrix of embeddings."""
        if self._store is not None:
            self._store.finish(images=list(_images_in(self._lines_path)))

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        if self._errors is not None:
            self._errors.close()
        if self._store is not None:
            self._store.close()

    def _prepare_folder(self, run: Record, *, resume: bool, overwrite: bool) -> None:
        existing = [name for name in _FILES if (self.folder / name).exists()]
        run_path = self.folder / "run.json"
        try:
            if resume and run_path.exists():
                _require_same_run(json.loads(run_path.read_bytes()), run, folder=self.folder)
            elif overwrite:
                for name in _FILES:
                    (self.folder / name).unlink(missing_ok=True)
                for name in _FOLDERS:
                    shutil.rmtree(self.folder / name, ignore_errors=True)
            elif resume and existing:
                raise OutputError(
                    f"{self.folder} has no run.json, so what made its results is not known; choose "
                    "another --out, or --overwrite"
                )
            elif existing:
                raise OutputError(
                    f"{self.folder} already holds results; --resume goes on with them, --overwrite "
                    "replaces them, or choose another --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as e:
            error = e if isinstance(e, OSError) else OSError(str(e))
            raise output_error(self.folder, error) from e
        text = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
        write_atomically(run_path, lambda file: file.write(text.encode()))

    def _done_before(self) -> Counter[str]:
        done: Counter[str] = Counter()
        for path in (self._lines_path, self.folder / "errors.jsonl"):
            drop_partial_line(path)
            done.update(_images_in(path))
        return done


def record_from_result(result: Result | Refused, options: WriteOptions) -> Record:
    """Return the line of a result: plain values, ready for JSON."""
    return result.record() if isinstance(result, Refused) else result.line(options)


def line_from_record(record: Record) -> str:
    """Return a record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def csv_line(values: list[Any]) -> str:
    """Return one line of CSV, quoted where needed."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _safe(name: str) -> str:
    return name.replace("\x00", "").replace(":", "_").lstrip("/") or "image"


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _images_in(path))


def _images_in(path: Path) -> Iterator[str]:
    """Yield the `image` of every line of results or errors.

    Raises:
        OutputError: a line is not one that dlcv wrote.
    """
    if not path.exists():
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
            for line in lines:
                yield line["image"]
    except (ValueError, KeyError, TypeError, csv.Error) as e:
        raise OutputError(
            f"{path} is damaged and cannot be resumed ({e}); choose another --out, or --overwrite"
        ) from e


def _csv_header(path: Path) -> list[str] | None:
    if not path.exists() or not path.stat().st_size:
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), None)


def _require_same_run(before: Record, now: Record, *, folder: Path) -> None:
    for key in (
        "bundle",
        "bundle_sha256",
        "prototypes",
        "precision",
        "input_size",
        "search",
        "options",
    ):
        if before.get(key) != now.get(key):
            raise OutputError(
                f"{folder} was made with another {key} ({before.get(key)}, now {now.get(key)}); "
                "resume with the same, or choose another --out"
            )
