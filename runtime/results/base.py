"""What every result is: values of one image, its line, its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np

from dlcv.runtime.images.decode import DecodeOptions, Frame, load_display
from dlcv.runtime.images.source import Source, name_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

Float32: TypeAlias = "NDArray[np.float32]"
ClassIndices: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16]"
Record: TypeAlias = dict[str, Any]
LineFormat: TypeAlias = Literal["jsonl", "csv"]
MatrixFormat: TypeAlias = Literal["npz", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A class that an image may belong to, and how likely: probability in 0..1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What is written for each image beside its line.

    top: classes in a line. masks: palette PNG. overlays: PNG to look at. maps: explanation and
    attention as NPZ. confidence: greyscale PNG, 255 is certain. embeddings: one matrix for all.
    """

    lines: LineFormat = "jsonl"
    top: int = 5
    masks: bool = False
    overlays: bool = False
    maps: bool = False
    confidence: bool = False
    embeddings: MatrixFormat | None = None

    @property
    def needs_folder(self) -> bool:
        """Whether there are files beside the lines."""
        return any((self.masks, self.overlays, self.maps, self.confidence, self.embeddings))


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file of one image. key: its name in the image's line. folder: in the results folder. write: writes it."""

    key: str
    folder: str
    suffix: str
    write: Callable[[BinaryIO], object]


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """What every answer holds.

    source: the image as it was given. frame: where the graph's pixels lie in the original image.
    engine: what ran (engine, version, device, precision). decode: how the source was read, to read it again for a
    picture. note: what a person should know of the image, in a sentence, such as that its values are suspiciously low.
    """

    source: Source
    frame: Frame
    engine: str
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    note: str | None = None

    @property
    def name(self) -> str:
        """The source as text: a path or URL, or the kind of object that was given."""
        return name_of(self.source)

    @abstractmethod
    def record(self) -> Record:
        """Return what goes into a line of JSON."""

    def line(self, options: WriteOptions) -> Record:
        """Return the record as the options want it."""
        return self.record()

    def files(self, options: WriteOptions) -> Iterator[ResultFile]:
        """Yield the image's own files that the options want."""
        yield from ()

    def csv_row(self, record: Record) -> Record:
        """Flatten a record for CSV, with the same columns for every image of a bundle."""
        return record

    def photo(self) -> Image.Image:
        """Read the source again, RGB, to draw on it.

        Raises:
            ImageError: it cannot be read again.
        """
        return load_display(self.source, options=self.decode)

    def _base_record(self) -> Record:
        height, width = self.frame.size
        return {"image": self.name, "height": height, "width": width}


def require_array(array: np.ndarray[Any, Any], name: str, dtype: type, *, ndim: int) -> None:
    """Check an array of a result.

    Raises:
        ValueError: it has another dtype or another number of axes.
    """
    if array.dtype != dtype or array.ndim != ndim:
        raise ValueError(
            f"{name} must be {np.dtype(dtype)} with {ndim} axes, not {array.dtype} {array.shape}"
        )
