"""A matrix of embeddings that grows on disk, and becomes one NPZ or Parquet file at the end."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, final

import numpy as np

from dlcv.runtime.errors import OutputError
from dlcv.runtime.machine.atomic_files import AppendFile
from dlcv.runtime.results.base import MatrixFormat
from dlcv.runtime.results.lines import cell_from_text
from dlcv.runtime.results.owned_files import OwnedFiles
from dlcv.runtime.results.parquet_rows import import_pyarrow

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS_A_CHUNK = 4096


@final
class EmbeddingStore:
    """Rows of float32, appended to a partial file; memory does not depend on their number.

    `finish` writes `embeddings.npz` (arrays `embeddings` float32 (N, D), `images` (N,) and `run`, a
    JSON text) or `embeddings.parquet` (columns `image` and `embedding`), row i for line i of the results. In Parquet
    a name that is not UTF-8 is written as in CSV (`lines.py`); NPZ holds it as it is.
    """

    def __init__(
        self, files: OwnedFiles, kind: MatrixFormat, *, width: int, rows: int, run: dict[str, Any]
    ) -> None:
        """Open the partial file for rows of `width` floats, cut to as many as the results have lines.

        Raises:
            OutputError: it cannot be opened, holds fewer rows, or pyarrow is missing for Parquet.
        """
        if kind == "parquet":
            import_pyarrow()
        self._files = files
        self._path = files.folder / f"embeddings.{kind}"
        self._partial = files.matrix
        self._width, self._rows, self._run = width, rows, run
        try:
            if rows and not self._partial.exists() and self._path.exists():
                self._restore()
            self._cut_to(rows)
        except (OSError, ValueError) as e:
            raise OutputError(
                f"{files.folder} cannot be resumed, its embeddings do not fit its results ({e}); "
                "choose another --out, or --overwrite"
            ) from e
        self._file = AppendFile(self._partial)

    def append(self, vector: NDArray[np.float32]) -> None:
        """Append one row, float32 (D,)."""
        self._file.append(vector.tobytes())
        self._rows += 1

    def finish(self, *, images: list[str]) -> None:
        """Write the matrix with the images' names, a row each, and remove the partial file."""
        self.close()
        write = self._write_npz if self._path.suffix == ".npz" else self._write_parquet
        self._files.write(self._path.name, lambda file: write(file, images[: self._rows]))
        self._partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the partial file, which stays until `finish`."""
        self._file.close()

    def _cut_to(self, rows: int) -> None:
        if rows == 0:
            self._partial.unlink(missing_ok=True)
            return
        size = rows * self._width * 4
        if self._partial.stat().st_size < size:
            raise ValueError(f"fewer than {rows} rows")
        with self._partial.open("r+b") as file:
            file.truncate(size)

    def _restore(self) -> None:
        """Turn a finished matrix back into a partial file, so that a resumed run can add to it."""
        if self._path.suffix == ".npz":
            with np.load(self._path, allow_pickle=False) as arrays:
                arrays["embeddings"].tofile(self._partial)
            return
        _, parquet = import_pyarrow()
        with parquet.ParquetFile(self._path) as table, self._partial.open("wb") as file:
            for batch in table.iter_batches(columns=["embedding"]):
                file.write(batch.column(0).flatten().to_numpy().tobytes())

    def _chunks(self) -> Iterator[NDArray[np.float32]]:
        with self._partial.open("rb") as file:
            while data := file.read(_ROWS_A_CHUNK * self._width * 4):
                yield np.frombuffer(data, np.float32).reshape(-1, self._width)

    def _write_npz(self, file: BinaryIO, images: list[str]) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": (self._rows, self._width),
        }
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for chunk in self._chunks():
                    member.write(chunk.tobytes())
            for name, array in (
                ("images", np.array(images, str)),
                ("run", np.array(json.dumps(self._run))),
            ):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _write_parquet(self, file: BinaryIO, images: list[str]) -> None:
        pa, parquet = import_pyarrow()
        schema = pa.schema(
            [
                ("image", pa.string()),
                ("embedding", pa.list_(pa.float32(), self._width)),
            ],
            metadata={"run": json.dumps(self._run)},
        )
        start = 0
        with parquet.ParquetWriter(file, schema) as writer:
            for chunk in self._chunks():
                cells = map(cell_from_text, images[start : start + len(chunk)])
                names = pa.array(cells, pa.string())
                flat = pa.array(chunk.ravel())
                vectors = pa.FixedSizeListArray.from_arrays(flat, self._width)
                writer.write_table(pa.table([names, vectors], schema=schema))
                start += len(chunk)
