"""Results as rows of Parquet: the columns of a task's line, the mask or the vector, and what went wrong.

An image that was refused has a row too: `image` and `error`, all else null. `image` is written as in CSV (`lines.py`),
`note` is a sentence for people, where there is one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.source import Refused
from dlcv.runtime.results.base import Record, Result, WriteOptions
from dlcv.runtime.results.embedding import Embedding
from dlcv.runtime.results.lines import cell_from_text

RowKind: TypeAlias = Literal["classify", "segment", "embed"]


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet.

    Raises:
        OutputError: pyarrow is missing.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as e:
        raise OutputError("Parquet needs pyarrow: pip install 'dlcv[parquet]'") from e
    return pa, parquet


def schema_of_rows(kind: RowKind, *, several_labels: bool = False) -> Any:
    """Return the `pyarrow.Schema` of a task's rows. several_labels: of a classifier with a threshold."""
    pa, _ = import_pyarrow()
    label = [("label", pa.string()), ("index", pa.int32()), ("probability", pa.float64())]
    labels = pa.list_(pa.struct(label))
    own = {
        "classify": [*label, *([("labels", labels)] if several_labels else []), ("top", labels)],
        "segment": [("shares", pa.map_(pa.string(), pa.float64())), ("mask_png", pa.binary())],
        "embed": [("embedding", pa.list_(pa.float32()))],
    }
    frame = [("image", pa.string()), ("height", pa.int32()), ("width", pa.int32())]
    ends = [(name, pa.string()) for name in ("engine", "note", "error")]
    return pa.schema([*frame, *own[kind], *ends])


def row_from_result(result: Result | Refused, name: str, *, options: WriteOptions) -> Record:
    """Return the row of an image that is called `name`, its values as `schema_of_rows` wants them."""
    image = {"image": cell_from_text(name)}
    if isinstance(result, Refused):
        return image | {"error": result.reason}
    files = {f"{file.key}_png": _bytes(file.write) for file in result.files(options)}
    vector = {"embedding": result.vector} if isinstance(result, Embedding) else {}
    return result.line(options) | files | vector | image | {"note": result.note}


def table_from_rows(rows: list[Record], schema: Any) -> Any:
    """Return rows as a `pyarrow.Table`."""
    pa, _ = import_pyarrow()
    columns = [pa.array(list(_column(rows, field.name)), field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _column(rows: list[Record], name: str) -> Iterator[Any]:
    for row in rows:
        value = row.get(name)
        yield list(value.items()) if isinstance(value, dict) else value  # a map's pairs


def _bytes(write: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()
