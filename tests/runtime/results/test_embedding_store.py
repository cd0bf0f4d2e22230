"""A matrix of embeddings survives a kill between a row and its line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.folders import RESULTS_STATE
from dlcv.runtime.results.base import MatrixFormat
from dlcv.runtime.results.embedding_store import EmbeddingStore
from dlcv.runtime.results.lines import text_from_cell
from dlcv.runtime.results.owned_files import OwnedFiles

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OwnedFiles]:
    with OwnedFiles(tmp_path) as files:
        files.start([])
        yield files


def store(files: OwnedFiles, kind: MatrixFormat, *, rows: int) -> EmbeddingStore:
    return EmbeddingStore(files, kind, width=3, rows=rows, run={"bundle": "toy"})


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_row_without_its_line_is_dropped_and_written_again(
    files: OwnedFiles, tmp_path: Path, kind: MatrixFormat
) -> None:
    killed = store(files, kind, rows=0)
    for row in ROWS[:3]:
        killed.append(row)
    killed.close()  # after three rows, but only two lines
    resumed = store(files, kind, rows=2)
    for row in ROWS[2:]:
        resumed.append(row)
    resumed.finish(images=list("abcd"))
    again = store(files, kind, rows=4)  # finished: nothing to add
    again.finish(images=list("abcd"))
    if kind == "npz":
        with np.load(tmp_path / "embeddings.npz") as arrays:
            np.testing.assert_array_equal(arrays["embeddings"], ROWS)
            assert arrays["images"].tolist() == list("abcd")
    else:
        from pyarrow import parquet

        table = parquet.read_table(tmp_path / "embeddings.parquet")
        assert table["embedding"].to_pylist() == ROWS.tolist()
        assert table["image"].to_pylist() == list("abcd")
    assert {path.name for path in tmp_path.iterdir()} == {RESULTS_STATE, f"embeddings.{kind}"}
    assert not files.matrix.exists()


def test_fewer_rows_than_lines_cannot_be_resumed(files: OwnedFiles) -> None:
    short = store(files, "npz", rows=0)
    short.append(ROWS[0])
    short.close()
    with pytest.raises(OutputError, match="its embeddings do not fit its results"):
        store(files, "npz", rows=2)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_names_that_are_not_utf8_come_back_as_they_were(
    files: OwnedFiles, tmp_path: Path, kind: MatrixFormat
) -> None:
    names = ["plain", "bad\udcff.jpg", "two\nlines", '"quoted"', "back\\slash\\udcff", "日本"]
    matrix = store(files, kind, rows=0)
    for number in range(len(names)):
        matrix.append(ROWS[number % len(ROWS)])
    matrix.finish(images=names)
    if kind == "npz":
        with np.load(tmp_path / "embeddings.npz") as arrays:
            assert arrays["images"].tolist() == names
    else:
        from pyarrow import parquet

        cells = parquet.read_table(tmp_path / "embeddings.parquet")["image"].to_pylist()
        assert [text_from_cell(cell) for cell in cells] == names
        assert (cells[0], cells[-1]) == ("plain", "日本")


def test_a_matrix_of_no_images_has_names_of_text(files: OwnedFiles, tmp_path: Path) -> None:
    files.matrix.touch()
    store(files, "npz", rows=0).finish(images=[])
    with np.load(tmp_path / "embeddings.npz") as arrays:
        assert (arrays["images"].dtype.kind, arrays["embeddings"].shape) == ("U", (0, 3))
