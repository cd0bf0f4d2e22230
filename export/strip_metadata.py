"""Removes notes about the exporting machine from an ONNX file."""

from __future__ import annotations

from typing import Any


def strip_notes(message: Any) -> None:
    """Clear the metadata and documentation of a message and its parts. They contain paths and sources."""
    for field in ("metadata_props", "doc_string"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for _, value in message.ListFields():
        for inner in value if _is_repeated(value) else (value,):
            if hasattr(inner, "ListFields"):
                strip_notes(inner)


def _is_repeated(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))
