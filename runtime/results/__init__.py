"""What a model answers: values, pictures, files."""

from dlcv.runtime.results.values import (
    Caption,
    Classification,
    Embedding,
    Float32,
    Label,
    Record,
    Refused,
    Result,
    Segmentation,
    name_of,
    result_from_outputs,
)

__all__ = [
    "Caption",
    "Classification",
    "Embedding",
    "Float32",
    "Label",
    "Record",
    "Refused",
    "Result",
    "Segmentation",
    "name_of",
    "result_from_outputs",
]
