"""Images that a Parquet file names (a column of paths or URLs) or holds (a column of bytes).

A column of bytes is binary, or a struct with the fields `bytes` and `path`, as Hugging Face's data sets have it. Paths
are read where the job is started. Bytes are read where they are used: a `RowGroup` says which.
"""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcv.runtime.errors import InputError
from dlcv.runtime.images.source import Refused

if TYPE_CHECKING:
    from dlcv.runtime.images.source import Source

COLUMNS = ("image", "bytes", "path", "uri")
"""Columns that are looked for, in this order, where none is named."""
_ROWS_A_READ = 64


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Some rows of a Parquet file that hold the bytes of images.

    path: of the file, or its URL. group: number of the row group. first: number of its first row in the file.
    """

    path: str
    column: str
    group: int
    first: int
    count: int

    def name(self, row: int) -> str:
        """Return what the image of a row is called. row: counted from the group's first."""
        return f"{self.path}#{self.first + row}"


def is_parquet(text: str, *, column: str | None = None) -> bool:
    """Whether an input of a command line is Parquet: it ends in .parquet, or a column was named."""
    return column is not None or text.rstrip("/").lower().endswith(".parquet")


def parquet_images(text: str, *, column: str | None = None) -> Iterator[str | RowGroup | Refused]:
    """Yield the paths, or the row groups with bytes, of Parquet files: a file, a folder, a pattern or a URL.

    column: which holds the images; None: the first of COLUMNS that there is. What cannot be read is a `Refused`.
    """
    try:
        paths = _files(text)
    except Exception as e:  # noqa: BLE001  # every filesystem behind fsspec raises its own
        yield Refused(source=text, reason=f"cannot list it ({_one_line(e)})")
        return
    if not paths:
        yield Refused(source=text, reason="no Parquet file there")
    for path in paths:
        try:
            yield from _images(path, column)
        except InputError as e:
            yield Refused(source=path, reason=str(e))
        except Exception as e:  # noqa: BLE001  # the same, and pyarrow's own
            yield Refused(source=path, reason=f"not a readable Parquet file ({_one_line(e)})")


def bytes_in(group: RowGroup, rows: Collection[int]) -> Iterator[tuple[str, Source | Refused]]:
    """Yield name and image of the wanted rows of a group, in order; memory does not depend on their number.

    rows: counted from the group's first. What cannot be read is a `Refused`.
    """
    left = deque(sorted(rows))
    reason = f"{group.path} has fewer rows now"
    try:
        with _opened(group.path) as file:
            for number, value in enumerate(_values(file, group.column, group=group.group)):
                if left and number == left[0]:
                    name = group.name(left.popleft())
                    yield name, _image(value, name)
    except Exception as e:  # noqa: BLE001  # every filesystem behind fsspec raises its own, and so does pyarrow
        reason = f"cannot read {group.path} ({_one_line(e)})"
    for name in map(group.name, left):
        yield name, Refused(source=name, reason=reason)


def _files(text: str) -> list[str]:
    if "://" in text:
        return _files_of_url(text)
    if Path(text).is_dir():
        return _shown((str(path) for path in Path(text).rglob("*") if path.is_file()), text)
    if glob.has_magic(text) and not Path(text).exists():
        return sorted(glob.glob(text, recursive=True))  # users give absolute patterns
    return [text]


def _files_of_url(url: str) -> list[str]:
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(url)
    if glob.has_magic(path):
        found = sorted(f for f in filesystem.glob(path) if not Path(f).name.startswith("."))
    else:
        found = _shown(filesystem.find(path), path) if filesystem.isdir(path) else [path]
    return [str(filesystem.unstrip_protocol(file)) for file in found]


def _shown(paths: Iterable[str], folder: str) -> list[str]:
    """Return the Parquet files of a folder; by `_` and `.` Spark and others hide what is not finished."""
    return sorted(
        path
        for path in paths
        if is_parquet(path)
        and not any(part[:1] in ("_", ".") for part in path.removeprefix(folder).split("/"))
    )


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a Parquet file, and close it."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as e:
        raise InputError("Parquet needs pyarrow: pip install 'dlcv[parquet]'") from e
    with _raw(path) as raw, parquet.ParquetFile(raw) as file:
        yield file


def _raw(path: str) -> Any:
    if "://" not in path:
        return Path(path).open("rb")
    try:
        import fsspec
    except ModuleNotFoundError as e:
        raise InputError("URLs need fsspec: pip install 'dlcv[remote]'") from e
    return fsspec.open(path, "rb")


def _images(path: str, column: str | None) -> Iterator[str | RowGroup | Refused]:
    with _opened(path) as file:
        name = _chosen(file.schema_arrow, column)
        if not _is_text(file.schema_arrow.field(name).type):
            yield from _groups(file, path, name)
            return
        for row, value in enumerate(_values(file, name)):
            yield value or Refused(source=f"{path}#{row}", reason="the row names no image")


def _groups(file: Any, path: str, column: str) -> Iterator[RowGroup]:
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        yield RowGroup(path=path, column=column, group=group, first=first, count=count)
        first += count


def _values(file: Any, column: str, *, group: int | None = None) -> Iterator[Any]:
    groups = None if group is None else [group]
    for batch in file.iter_batches(_ROWS_A_READ, columns=[column], row_groups=groups):
        yield from batch.column(0).to_pylist()


def _image(value: Any, name: str) -> Source | Refused:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        return Refused(source=name, reason="the row holds no image")
    image: bytes | str = value
    return image


def _chosen(schema: Any, column: str | None) -> str:
    wanted = COLUMNS if column is None else (column,)
    for name in wanted:
        if _fits(schema, name):
            return name
    raise InputError(
        f"it has no column {' or '.join(wanted)} of paths or of bytes, only {', '.join(schema.names)}; name one of "
        "these with --column"
    )


def _fits(schema: Any, name: str) -> bool:
    from pyarrow import types

    if name not in schema.names:
        return False
    kind = schema.field(name).type
    if types.is_struct(kind):
        return "bytes" in {field.name for field in kind}
    return _is_text(kind) or bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
