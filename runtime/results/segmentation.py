"""The answer of a segmenter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import AnswerError
from dlcv.runtime.images import Frame
from dlcv.runtime.results.base import (
    ClassIndices,
    Float32,
    Record,
    Result,
    ResultFile,
    WriteOptions,
    require_array,
)
from dlcv.runtime.results.draw import draw_segmentation, palette_image, png_file


@dataclass(frozen=True, kw_only=True)
class Segmentation(Result):
    """One image's mask.

    graph_mask: uint8 or, of more than 256 classes, uint16 (h, w), class indices at the graph's resolution, over `frame.box`.
    graph_confidence: float32 (h, w) in 0..1, the probability of the chosen class; None if not asked for.
    """

    classes: tuple[ClassInfo, ...]
    graph_mask: ClassIndices
    graph_confidence: Float32 | None = None

    def __post_init__(self) -> None:
        dtype = np.uint8 if len(self.classes) <= 1 << 8 else np.uint16
        require_array(self.graph_mask, "graph_mask", dtype, ndim=2)
        if self.graph_confidence is not None:
            require_array(self.graph_confidence, "graph_confidence", np.float32, ndim=2)
        if self.graph_mask.size and (highest := int(self.graph_mask.max())) >= len(self.classes):
            raise AnswerError(
                f"the network gave a mask with class {highest}, where the bundle names {len(self.classes)} classes; "
                "export it again"
            )

    @cached_property
    def mask(self) -> ClassIndices:
        """Class indices, uint8 or uint16 (H, W), at the original image's size (nearest neighbour)."""
        return self._on_image(self.graph_mask, Image.Resampling.NEAREST)

    @cached_property
    def confidence(self) -> Float32 | None:
        """Probability of the chosen class, float32 (H, W), at the original size (bilinear)."""
        if self.graph_confidence is None:
            return None
        return self._on_image(self.graph_confidence, Image.Resampling.BILINEAR)

    def _on_image(
        self, values: np.ndarray[Any, Any], filter_: Image.Resampling
    ) -> np.ndarray[Any, Any]:
        """Scale values (h, w) over `frame.box` to the original image; what lies beyond its borders is cut off."""
        size = self.frame.size
        if values.shape == size and self.frame.box == (0, 0, size[1], size[0]):
            return values
        region = _image_in_graph(self.frame, values.shape)
        image = Image.fromarray(values)
        return np.asarray(image.resize((size[1], size[0]), filter_, box=region))

    def _seen(self) -> ClassIndices:
        """The graph's mask without what it gave for a border that the image was padded with."""
        left, top, right, bottom = map(round, _image_in_graph(self.frame, self.graph_mask.shape))
        return self.graph_mask[top:bottom, left:right]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Each class's share of the image in 0..1, for the classes that occur, largest first."""
        seen = self._seen()
        counts = np.bincount(seen.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        total = max(1, seen.size)
        return {self.classes[i].name: float(counts[i]) / total for i in order if counts[i]}

    def mask_image(self) -> Image.Image:
        """Return the mask as a palette image: indices are classes, the palette their colours.

        Of more than 256 classes, a 16-bit greyscale image of the indices.
        """
        return palette_image(self.mask, self.classes)

    def confidence_image(self) -> Image.Image:
        """Return the confidence as an 8-bit greyscale image, 255 is certain; it must have been asked for."""
        return Image.fromarray((np.asarray(self.confidence) * 255).round().astype(np.uint8))

    def overlay(self) -> Image.Image:
        """Draw the mask over the photo with a legend of class names and shares.

        Raises:
            ImageError: the source cannot be read again.
        """
        return draw_segmentation(
            self.photo(), self._seen(), classes=self.classes, shares=self.shares
        )

    def record(self) -> Record:
        """Return what goes into a line of JSON, without the mask itself."""
        record = self._base_record()
        record["shares"] = {name: round(share, 6) for name, share in self.shares.items()}
        if self.graph_confidence is not None:
            record["mean_confidence"] = round(float(self.graph_confidence.mean()), 6)
        return record | {"engine": self.engine}

    def files(self, options: WriteOptions) -> Iterator[ResultFile]:
        """Yield the mask, the confidence and the overlay."""
        if options.masks:
            yield png_file("mask", "masks", self.mask_image, self.engine)
        if options.confidence and self.graph_confidence is not None:
            yield png_file("confidence", "confidence", self.confidence_image, self.engine)
        if options.overlays:
            yield png_file("overlay", "overlays", self.overlay, self.engine)

    def csv_row(self, record: Record) -> Record:
        """Give each class a column for its share, also those that do not occur."""
        row: Record = {}
        for key, value in record.items():
            if key == "shares":
                row |= {f"share {info.name}": value.get(info.name, 0.0) for info in self.classes}
            else:
                row[key] = value
        return row


def _image_in_graph(frame: Frame, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return where the whole image lies in an array (h, w) over `frame.box`, as xyxy in cells of the array."""
    left, top, right, bottom = frame.box
    y, x = shape[0] / (bottom - top), shape[1] / (right - left)
    height, width = frame.size
    return (
        max(0.0, -left * x),
        max(0.0, -top * y),
        min(float(shape[1]), (width - left) * x),
        min(float(shape[0]), (height - top) * y),
    )
