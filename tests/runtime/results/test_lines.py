"""Lines are valid UTF-8, a record each, and give back every name."""

import csv
import json
from pathlib import Path

import pytest

from dlcv.runtime.errors import OutputError
from dlcv.runtime.results.lines import (
    cell_from_text,
    csv_header,
    csv_line,
    line_from_record,
    records_in,
    text_from_cell,
)

NAMES = [
    "",
    "plain.jpg",
    "日本 ü.jpg",
    "bad\udcff.jpg",
    "\udc80",
    r"bad\udcff.jpg",
    "two\nlines",
    "carriage\rreturn",
    "\x85\u2028\u2029\x1c\x7f",
    '"',
    '"quoted"',
    '"quoted\udcff"',
    'in "the" middle',
    "comma, semicolon;",
    "'single'",
    "back\\slash\\n",
    "-dash",
    "=1+1",
    " ",
    "tab\t\x1b[31m",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_line_gives_back_the_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"results.{kind}"
    record = {"image": name, "height": "3"}
    lines = [line_from_record(record)]
    if kind == "csv":
        lines = [csv_line(list(record)), csv_line(list(record.values()))]
    for line in lines:
        assert line.splitlines(keepends=True) == [line]
    path.write_bytes("".join(lines).encode())
    assert list(records_in(path)) == [record]


def test_other_text_stays_readable() -> None:
    record = {"image": "日本\udcff.jpg", "label": "Füße"}
    assert line_from_record(record) == '{"image": "日本\\udcff.jpg", "label": "Füße"}\n'
    assert cell_from_text("Füße \\n") == "Füße \\n"
    assert cell_from_text("日\udcff") == '"日\\udcff"'


def test_columns_of_csv_may_have_any_name(tmp_path: Path) -> None:
    columns = ["image", 'share "red"', '"x"', "two\nlines"]
    (tmp_path / "results.csv").write_text(csv_line(columns))
    assert csv_header(tmp_path / "results.csv") == columns


def test_a_cell_of_an_earlier_version_is_taken_as_it_is() -> None:
    assert text_from_cell('"x".jpg') == '"x".jpg'


@pytest.mark.parametrize("line", ["scribble", "[]", '{"x": 1}', '{"image": 1}', "\udcff"])
def test_a_line_of_somebody_else_is_damage(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(OutputError, match=r"results\.jsonl is damaged and cannot be resumed"):
        list(records_in(path))


def test_a_spreadsheet_sees_one_row_an_image(tmp_path: Path) -> None:
    rows = [csv_line(["image"]), *(csv_line([name]) for name in NAMES if name)]
    cells = [row[0] for row in csv.reader("".join(rows).splitlines())][1:]
    assert [text_from_cell(cell) for cell in cells] == [name for name in NAMES if name]
    assert all(json.loads(cell) for cell in cells if cell.startswith('"'))
