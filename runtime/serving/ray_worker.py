"""What runs on the machines of a Ray cluster: pieces of work are read, and answered by a loaded bundle.

A piece of work is one row of a `ray.data.Dataset`, and so are its answers: one row with a whole Arrow table in it. Ray
may repeat a task whose machine was lost, and cuts large outputs into blocks by their bytes, which need not be the same
the second time. One row cannot be cut, so what arrives is all of a piece, once.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, final

import pyarrow as pa
import ray

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import EngineOptions
from dlcv.runtime.errors import DlcvError
from dlcv.runtime.images import DecodeOptions, Refused, Source
from dlcv.runtime.images.parquet_inputs import RowGroup, bytes_in
from dlcv.runtime.results import Result, WriteOptions
from dlcv.runtime.results.parquet_rows import (
    RowKind,
    row_from_result,
    schema_of_rows,
    table_from_rows,
)
from dlcv.runtime.running.predictor import Predictor, load

IMAGES_A_PIECE = 64
_BATCH_SIZE = 8
_DEATHS = 2  # of workers at one image, alone, before it is refused
_WORK = pa.schema([("work", pa.string()), ("data", pa.list_(pa.large_binary()))])
_ANSWERS = pa.schema([("answers", pa.large_binary()), ("failure", pa.string())])

Named: TypeAlias = "tuple[str, Source | Refused]"
"""An image's name in the results, and the image; a path is absolute, or a URL."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How each worker loads the bundle, and what its rows hold. The fields are those of `load` and `EngineOptions`."""

    kind: RowKind
    outputs: tuple[str, ...]
    engine: str = "auto"
    precision: Precision | None = None
    threads: int = 1
    batch_size: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    longest_side: int | None = None
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    several_labels: bool = False


# Work as a row: `work` is JSON, because names may hold what is not UTF-8. An image is [name, path, reason]: a path, or a
# reason to refuse it, or neither where the next of `data` is its bytes. A group is not read yet.


def row_from_images(images: Sequence[Named], piece: str) -> dict[str, Any]:
    """Return a piece of work as a row. piece: what no other piece is called."""
    listed: list[tuple[str, str | None, str | None]] = []
    data: list[bytes] = []
    for name, image in images:
        if isinstance(image, Refused):
            listed.append((name, None, image.reason))
        elif isinstance(image, bytes):
            listed.append((name, None, None))
            data.append(image)
        else:
            listed.append((name, str(image), None))
    return {"work": json.dumps({"piece": piece, "images": listed}), "data": data}


def row_from_group(group: RowGroup, rows: Sequence[int]) -> dict[str, Any]:
    """Return rows of a Parquet file that are still to be read, and cut to pieces of work, as a row."""
    fields = {name: getattr(group, name) for name in group.__dataclass_fields__}
    return {"work": json.dumps({"group": fields, "rows": list(rows)}), "data": []}


def table_from_work(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows of work as a table, as the dataset begins with."""
    return pa.Table.from_pylist(list(rows), schema=_WORK)


def read_group(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the pieces of work that a row stands for: those of a group of rows are read now, others are as they are."""
    work = json.loads(table["work"][0].as_py())
    if "group" not in work:
        yield table
        return
    group = RowGroup(**work["group"])
    left = bytes_in(group, work["rows"])
    while images := list(islice(left, IMAGES_A_PIECE)):
        yield table_from_work([row_from_images(images, f"{group.path}:{images[0][0]}")])


def rows_in(answers: bytes) -> pa.Table:
    """Return the table of rows in a row of answers."""
    return pa.ipc.open_stream(answers).read_all()


@final
class Attempts:
    """An actor that counts what was begun and not ended: how often a worker died in the middle of it."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        """Return how often it was begun before, and not ended."""
        self._open[key] += 1
        return self._open[key] - 1

    def end(self, key: str) -> None:
        """Note that it is done."""
        del self._open[key]


@final
class Worker:
    """Loads a bundle once, and answers pieces of work. Ray Data makes one in each of its worker processes.

    Ray repeats the piece of a worker that died. Then its images are answered one at a time, and one at which workers died
    _DEATHS times is refused: an image may crash a decoder, or need more memory than there is.

    An error of dlcv's travels as a row to who started the job. Ray would repeat it, and print it in its own way.
    """

    def __init__(self, options: WorkerOptions, files: Any, attempts: Any) -> None:
        """Load the bundle. files: Ray's reference to its files, by name. attempts: its handle of an `Attempts`."""
        self._options = options
        self._attempts = attempts
        self._schema = schema_of_rows(options.kind, several_labels=options.several_labels)
        self._predictor: Predictor | None = None
        self._failure = ""
        try:
            self._predictor = _loaded(options, ray.get(files))
        except DlcvError as e:
            self._failure = _text_of(e)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the answers of one piece of work, as one row."""
        if self._predictor is None:
            return _answered(failure=self._failure)
        piece, images = _images(table)
        is_first = not ray.get(self._attempts.begin.remote(piece))
        answer = self._together if is_first else self._one_at_a_time
        try:
            rows = [
                row_from_result(result, name, options=self._options.write)
                for (name, _), result in zip(
                    images, answer(self._predictor, piece, images), strict=True
                )
            ]
        except DlcvError as e:
            return _answered(failure=_text_of(e))
        return _answered(table_from_rows(rows, self._schema))

    def _together(
        self, predictor: Predictor, _: str, images: list[Named]
    ) -> Iterator[Result | Refused]:
        return predictor.stream(image for _, image in images)

    def _one_at_a_time(
        self, predictor: Predictor, piece: str, images: list[Named]
    ) -> Iterator[Result | Refused]:
        for number, (name, image) in enumerate(images):
            key = f"{piece}\n{number}"
            deaths: Any = ray.get(self._attempts.begin.remote(key))
            if deaths >= _DEATHS:
                yield Refused(
                    source=name, reason=f"workers died {_DEATHS} times while they read it"
                )
            else:
                yield from predictor.stream([image])
            ray.get(self._attempts.end.remote(key))


def raise_failure(text: str) -> None:
    """Raise the error of dlcv's that a worker met.

    Raises:
        DlcvError: always, of the worker's class.
    """
    import dlcv.runtime.errors as known

    failure = json.loads(text)
    raise getattr(known, failure["kind"], known.EngineError)(failure["message"])


def _loaded(options: WorkerOptions, files: Mapping[str, bytes]) -> Predictor:
    """Unpack the bundle for as long as it is loaded: its hashes are verified, and the engine reads its graph whole."""
    batch_size = options.batch_size
    with tempfile.TemporaryDirectory(prefix="dlcv-bundle-") as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return load(
            folder,
            engine=options.engine,
            precision=options.precision,
            outputs=options.outputs,
            options=EngineOptions(
                threads=options.threads, batch_size=batch_size, settings=options.settings
            ),
            longest_side=options.longest_side,
            decode=options.decode,
            queue_size=3 * (batch_size or _BATCH_SIZE) + 2 * options.threads,
        )


def _images(table: pa.Table) -> tuple[str, list[Named]]:
    """Return what a piece of work is called, and its images."""
    data = iter(table["data"][0].as_py() or ())
    work = json.loads(table["work"][0].as_py())
    images: list[Named] = []
    for name, path, reason in work["images"]:
        if reason is not None:
            images.append((name, Refused(source=name, reason=reason)))
        else:
            images.append((name, next(data) if path is None else path))
    return work["piece"], images


def _answered(rows: pa.Table | None = None, *, failure: str | None = None) -> pa.Table:
    sink = pa.BufferOutputStream()
    if rows is not None:
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
    row = {"answers": sink.getvalue().to_pybytes(), "failure": failure}
    return pa.Table.from_pylist([row], schema=_ANSWERS)


def _text_of(error: DlcvError) -> str:
    return json.dumps({"kind": type(error).__name__, "message": str(error)})
