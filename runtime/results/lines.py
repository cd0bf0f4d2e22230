"""Lines of results: JSON Lines and CSV, in valid UTF-8 and without loss, whatever an image is called.

A file's name may hold bytes that are not UTF-8 (in Python lone surrogates), line ends and control characters. In JSON
they are escapes such as \\udcff. In CSV, and in Parquet, a text with such characters is written as a JSON string, in
quotation marks; so is one that begins with a quotation mark. All other texts are written as they are. So a text that
begins with a quotation mark is always a JSON string.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.source import Refused
from dlcv.runtime.results.base import Record, Result, WriteOptions

# What json.dumps leaves, and UTF-8 cannot hold or some readers take for the end of a line.
_ESCAPED_IN_JSON = re.compile("[\x80-\x9f\u2028\u2029\ud800-\udfff]")
_ONE_LINE = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for each line
_NOT_PLAIN = re.compile('^"|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')


def record_from_result(result: Result | Refused, options: WriteOptions) -> Record:
    """Return the line of a result: plain values, ready for JSON."""
    return result.record() if isinstance(result, Refused) else result.line(options)


def line_from_record(record: Record) -> str:
    """Return a record as one line of JSON."""
    return json_text(record) + "\n"


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that is readable, and valid UTF-8 once it is encoded."""
    text = (
        _ONE_LINE.encode(value)
        if indent is None
        else json.dumps(value, ensure_ascii=False, indent=indent)
    )
    if text.isascii():
        return text
    return _ESCAPED_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def csv_line(values: list[Any]) -> str:
    """Return one line of CSV, quoted where needed."""
    buffer = io.StringIO()
    cells = [cell_from_text(value) if isinstance(value, str) else value for value in values]
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def cell_from_text(text: str) -> str:
    """Return a text as it stands in CSV and Parquet: itself, or a JSON string."""
    return json_text(text) if _NOT_PLAIN.search(text) else text


def text_from_cell(cell: str) -> str:
    """Return the text that `cell_from_text` was given."""
    if not cell.startswith('"'):
        return cell
    try:
        return str(json.loads(cell))
    except ValueError:  # of an earlier version, which wrote all texts as they were
        return cell


def csv_header(path: Path) -> list[str] | None:
    """Return the columns of a CSV file; None if it is missing or empty."""
    if not path.exists() or not path.stat().st_size:
        return None
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), None)
    return header and [text_from_cell(cell) for cell in header]


def records_in(path: Path) -> Iterator[Record]:
    """Yield every line of results or errors; of CSV the columns that are text, as text.

    Raises:
        OutputError: a line is not one that dlcv wrote.
    """
    if not path.exists():
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
            for row in rows:
                record = _decoded(row) if path.suffix == ".csv" else row
                if not isinstance(record["image"], str):
                    raise TypeError("an image's name is not text")
                yield record
    except (ValueError, KeyError, TypeError, csv.Error) as e:
        raise OutputError(
            f"{path} is damaged and cannot be resumed ({e}); choose another --out, or --overwrite"
        ) from e


def _decoded(row: Record) -> Record:
    return {key: text_from_cell(cell) for key, cell in row.items() if isinstance(cell, str)}
