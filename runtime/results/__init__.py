"""What a model answers: values, pictures, files."""

from dlcv.runtime.images.source import Refused, name_of
from dlcv.runtime.results.base import Float32, Label, Record, Result, ResultFile, WriteOptions
from dlcv.runtime.results.classification import Classification
from dlcv.runtime.results.embedding import Embedding
from dlcv.runtime.results.segmentation import Segmentation

__all__ = [
    "Classification",
    "Embedding",
    "Float32",
    "Label",
    "Record",
    "Refused",
    "Result",
    "ResultFile",
    "Segmentation",
    "WriteOptions",
    "name_of",
]
