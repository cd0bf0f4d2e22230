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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, final

import numpy as np

from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.machine.atomic_files import (
    AppendFile,
    drop_partial_line,
    output_error,
    write_atomically,
)
from dlcv.runtime.results import (
    Caption,
    Classification,
    Embedding,
    Record,
    Refused,
    Result,
    Segmentation,
)
from dlcv.runtime.results.embedding_store import EmbeddingStore, MatrixFormat

LineFormat: TypeAlias = Literal["jsonl", "csv"]
_FOLDERS = ("masks", "overlays", "maps", "confidence")
_FILES = (
    "results.jsonl",
    "results.csv",
    "errors.jsonl",
    "run.json",
    "embeddings.npz",
    "embeddings.parquet",
)
_PNG_LEVEL = 1  # a mask of a few classes is as small at level 1 as at 6, in a third of the time


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What is written for each image beside its line.

    top: classes in a line. masks: palette PNG. overlays: PNG to look at. maps: explanation and
    attention as NPZ. confidence: greyscale PNG, 255 is certain. embeddings: one matrix for all.
    """

    lines: LineFormat = "jsonl"
    top: int = 5
    masks: bool = False
    overlays: bool = False
    maps: bool = False
    confidence: bool = False
    embeddings: MatrixFormat | None = None

    @property
    def needs_folder(self) -> bool:
        """Whether there are files beside the lines."""
        return any((self.masks, self.overlays, self.maps, self.confidence, self.embeddings))


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
        row = csv_row(record, result)
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
        for key, file, write in _files_of(result, self._options, name=_safe(name)):
            write_atomically(self.folder / file, write)
            files[key] = file
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
        row = csv_row(record, result)
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
    if isinstance(result, Classification):
        return result.record(top=options.top)
    record = result.record()
    if isinstance(result, Embedding) and options.embeddings:
        del record["embedding"]  # it goes into the matrix
    return record


def line_from_record(record: Record) -> str:
    """Return a record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def csv_row(record: Record, result: Result) -> Record:
    """Flatten a record for CSV, with the same columns for every image of a bundle.

    Shares become a column for each class, also those that do not occur; the top classes become
    `name:probability` pairs.
    """
    row: Record = {}
    for key, value in record.items():
        if key == "shares":
            names = result.classes if isinstance(result, Segmentation) else ()
            row |= {f"share {info.name}": value.get(info.name, 0.0) for info in names}
        elif key == "top":
            row["top"] = "; ".join(f"{x['label']}:{x['probability']:.4f}" for x in value)
        elif key == "embedding":
            row |= {f"e{number}": x for number, x in enumerate(value)}
        else:
            row[key] = value
    return row


def csv_line(values: list[Any]) -> str:
    """Return one line of CSV, quoted where needed."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _files_of(
    result: Result, options: WriteOptions, *, name: str
) -> Iterator[tuple[str, str, Callable[[BinaryIO], object]]]:
    """Yield an image's own files: key in its line, path in the folder, and what writes it."""
    if isinstance(result, Segmentation):
        if options.masks:
            yield (
                "mask",
                f"masks/{name}.png",
                lambda file: _save_png(result.mask_image(), file, result.engine),
            )
        if options.confidence and result.confidence is not None:
            grey = (result.confidence * 255).round().astype(np.uint8)
            yield (
                "confidence",
                f"confidence/{name}.png",
                lambda file: _save_png(_grey(grey), file, result.engine),
            )
    if isinstance(result, Classification) and options.maps:
        yield "maps", f"maps/{name}.npz", lambda file: _save_maps(result, file)
    if isinstance(result, (Caption, Classification, Segmentation)) and options.overlays:
        yield (
            "overlay",
            f"overlays/{name}.png",
            lambda file: _save_png(result.overlay(), file, result.engine),
        )


def _grey(values: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    from PIL import Image

    return Image.fromarray(values)


def _save_png(image: Any, file: BinaryIO, engine: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", f"dlcv; {engine}")
    image.save(file, format="PNG", compress_level=_PNG_LEVEL, pnginfo=info)


def _save_maps(result: Classification, file: BinaryIO) -> None:
    arrays: dict[str, Any] = {
        "box_xyxy": np.array(result.frame.box, np.float32),
        "size_hw": np.array(result.frame.size),
        "engine": np.array(result.engine),
    }
    for name in ("explanation", "attention"):
        if (array := getattr(result, name)) is not None:
            arrays[name] = array
    np.savez(file, allow_pickle=False, **arrays)


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
