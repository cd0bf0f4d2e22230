"""Parquet files as inputs: which column, paths or bytes, and what cannot be read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from dlcv.runtime.images import Refused
from dlcv.runtime.images.parquet_inputs import RowGroup, bytes_in, is_parquet, parquet_images


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, **options)
    return str(path)


def reason(images: list[Any]) -> str:
    (refused,) = images
    assert isinstance(refused, Refused)
    return refused.reason


def test_an_empty_table_holds_no_images(tmp_path):
    table = write(tmp_path / "t.parquet", {"path": pa.array([], pa.string())})
    assert list(parquet_images(table)) == []


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("a.parquet", None, True),
        ("s3://bucket/A.PARQUET", None, True),
        ("table.parquet/", None, True),
        ("photos", None, False),
        ("photos", "path", True),
        ("a.jpg", None, False),
    ],
)
def test_what_ends_in_parquet_or_has_a_column_is_parquet(text, column, expected):
    assert is_parquet(text, column=column) == expected


def test_a_column_of_text_names_images(tmp_path):
    table = write(tmp_path / "t.parquet", {"path": ["a.jpg", None], "other": ["x", "y"]})
    refused = Refused(source=f"{table}#1", reason="the row names no image")
    assert list(parquet_images(table)) == ["a.jpg", refused]
    assert list(parquet_images(table, column="other")) == ["x", "y"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_bytes_is_read_a_group_at_a_time(tmp_path, kind):
    data = [b"0", None, b"2", b"3", b"4"]
    table = write(tmp_path / "t.parquet", {"bytes": pa.array(data, kind)}, row_group_size=3)
    first, second = parquet_images(table)
    assert second == RowGroup(path=table, column="bytes", group=1, first=3, count=2)
    assert isinstance(first, RowGroup)
    assert isinstance(second, RowGroup)
    none = Refused(source=f"{table}#1", reason="the row holds no image")
    assert list(bytes_in(first, [0, 1])) == [(f"{table}#0", b"0"), (f"{table}#1", none)]
    assert list(bytes_in(second, [1])) == [(f"{table}#4", b"4")]


def test_a_struct_gives_its_bytes_or_its_path(tmp_path):
    images = [{"bytes": b"0", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]
    table = write(tmp_path / "t.parquet", {"image": images})
    (group,) = parquet_images(table)
    assert isinstance(group, RowGroup)
    assert [image for _, image in bytes_in(group, range(2))] == [b"0", "b.jpg"]


@pytest.mark.parametrize("as_url", [False, True])
def test_a_folder_gives_its_files_without_hidden_ones(tmp_path, as_url):
    for name in ("t/b.parquet", "t/a/c.parquet", "t/_temporary/d.parquet", "t/.e.parquet"):
        write(tmp_path / name, {"path": [name]})
    (tmp_path / "t" / "_SUCCESS").touch()
    folder = f"file://{tmp_path}/t" if as_url else str(tmp_path / "t")
    assert list(parquet_images(folder, column="path")) == ["t/a/c.parquet", "t/b.parquet"]
    assert list(parquet_images(f"{folder}/*.parquet")) == ["t/b.parquet"]


def test_a_table_without_such_a_column_is_refused_with_its_columns(tmp_path):
    table = write(tmp_path / "t.parquet", {"id": [1], "name": ["x"]})
    assert "no column image or bytes or path or uri" in reason(list(parquet_images(table)))
    words = reason(list(parquet_images(table, column="id")))
    assert words.startswith("it has no column id of paths or of bytes, only id, name; name one")


def test_what_is_not_there_or_not_parquet_is_refused(tmp_path):
    assert "No such file" in reason(list(parquet_images(str(tmp_path / "no.parquet"))))
    (tmp_path / "text.parquet").write_text("words")
    assert "not a readable Parquet file" in reason(
        list(parquet_images(str(tmp_path / "text.parquet")))
    )
    assert reason(list(parquet_images(str(tmp_path / "x*.parquet")))) == "no Parquet file there"
    (tmp_path / "empty").mkdir()
    words = reason(list(parquet_images(str(tmp_path / "empty"), column="path")))
    assert words == "no Parquet file there"


def test_a_group_that_is_gone_refuses_its_rows(tmp_path):
    group = RowGroup(path=str(tmp_path / "x.parquet"), column="bytes", group=0, first=5, count=2)
    (first, _), second = bytes_in(group, [0, 1])
    assert first == f"{tmp_path}/x.parquet#5"
    assert isinstance(second[1], Refused)
    assert "No such file" in second[1].reason


def test_a_group_that_was_cut_refuses_what_is_missing(tmp_path):
    table = write(tmp_path / "t.parquet", {"bytes": [b"0"]})
    group = RowGroup(path=table, column="bytes", group=0, first=0, count=2)
    (_, image), (_, missing) = bytes_in(group, [0, 1])
    assert image == b"0"
    assert missing == Refused(source=f"{table}#1", reason=f"{table} has fewer rows now")
