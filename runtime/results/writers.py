"""Where results go: what every writer does, and lines to a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol, final

from dlcv.runtime.images.source import Refused
from dlcv.runtime.results.base import Record, Result, WriteOptions
from dlcv.runtime.results.lines import csv_line, line_from_record, record_from_result


class Writer(Protocol):
    """Where results go: `prepare` runs in a pool, in any order; `commit` in the images' order.

    done: images that an earlier run answered or refused, to be passed over as often as counted.
    refused_before: how many of these were refused. makes_files: whether images have files of their own, which take time.
    """

    done: Counter[str]
    refused_before: int

    @property
    def makes_files(self) -> bool: ...

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

    @property
    def makes_files(self) -> bool:
        """Never: there is no folder."""
        return False

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
