"""A matrix of embeddings survives a kill between a row and its line."""

from pathlib import Path

import numpy as np
import pytest

from dlcv.runtime.errors import OutputError
from dlcv.runtime.results.base import MatrixFormat
from dlcv.runtime.results.embedding_store import EmbeddingStore

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def store(folder: Path, kind: MatrixFormat, *, rows: int) -> EmbeddingStore:
    return EmbeddingStore(folder, kind, width=3, rows=rows, run={"bundle": "toy"})


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_row_without_its_line_is_dropped_and_written_again(
    tmp_path: Path, kind: MatrixFormat
) -> None:
    killed = store(tmp_path, kind, rows=0)
    for row in ROWS[:3]:
        killed.append(row)
    killed.close()  # after three rows, but only two lines
    resumed = store(tmp_path, kind, rows=2)
    for row in ROWS[2:]:
        resumed.append(row)
    resumed.finish(images=list("abcd"))
    again = store(tmp_path, kind, rows=4)  # finished: nothing to add
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
    assert [path.name for path in tmp_path.iterdir()] == [f"embeddings.{kind}"]


def test_fewer_rows_than_lines_cannot_be_resumed(tmp_path: Path) -> None:
    short = store(tmp_path, "npz", rows=0)
    short.append(ROWS[0])
    short.close()
    with pytest.raises(OutputError, match="its embeddings do not fit its results"):
        store(tmp_path, "npz", rows=2)
