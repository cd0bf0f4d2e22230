"""Removes notes about the exporting machine from an ONNX file."""

from __future__ import annotations

from typing import Any


def strip_notes(message: Any) -> None:
    """Clear the metadata and documentation of a message and its parts. They contain paths and sources."""
    for field in ("metadata_props", "doc_string"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for field, value in message.ListFields():
        if field.message_type is None:  # numbers and texts; a tensor may have millions
            continue
        for inner in value if hasattr(value, "__len__") else (value,):
            strip_notes(inner)
