"""The answer of an embedder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlcv.runtime.results.base import Float32, Record, Result, WriteOptions, require_array


@dataclass(frozen=True, kw_only=True)
class Embedding(Result):
    """One image's embedding: float32 (D,), not normalised."""

    vector: Float32

    def __post_init__(self) -> None:
        require_array(self.vector, "vector", np.float32, ndim=1)

    def record(self) -> Record:
        """Return what goes into a line of JSON, the vector included."""
        return self._base_record() | {"embedding": self.vector.tolist(), "engine": self.engine}

    def line(self, options: WriteOptions) -> Record:
        """Return the record; a vector that goes into the matrix is not in it."""
        if options.embeddings is None:
            return self.record()
        return self._base_record() | {"engine": self.engine}

    def csv_row(self, record: Record) -> Record:
        """Give each number of the vector a column."""
        row = dict(record)
        vector = row.pop("embedding", [])
        engine = row.pop("engine")
        return row | {f"e{number}": x for number, x in enumerate(vector)} | {"engine": engine}
