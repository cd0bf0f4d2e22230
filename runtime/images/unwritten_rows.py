"""Finds images whose data ends early, but properly, so that the decoder says nothing and leaves the rest blank.

Pillow decodes into memory that is 0 (in a GIF: the transparent colour). Where the last row has that value everywhere, the file is
decoded once more into memory of another value: if that is still there, nobody wrote the row. Only images with such a last
row cost a second decode.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.errors import ImageError
from dlcv.runtime.images.file_formats import reopened

Box: TypeAlias = tuple[int, int, int, int]

_MAY_STOP_EARLY = frozenset(
    ("PNG", "GIF", "TIFF", "BMP", "PPM")
)  # the others' decoders fail, or write every row
_OTHER = 255


def load_whole(image: Image.Image) -> None:
    """Decode an image file that was opened.

    Raises:
        ImageError: rows at its end are missing.
    """
    rows = _last_rows(image) if image.format in _MAY_STOP_EARLY else []
    file = getattr(image, "fp", None)
    image.load()
    blank = (0, image.info.get("transparency"))
    if any(_values(image, row) <= set(blank) for row in rows):
        again = reopened(file, of=image.format or "")
        _fill_before_decoding(again)
        again.load()
        if any(_values(again, row) == {_OTHER} for row in rows):
            raise ImageError("cut short: its data ends before its last row")


def _last_rows(image: Any) -> list[Box]:
    """Return the last row that a decoder writes, as xyxy in pixels; of an interlaced image the row above it too."""
    left, top, right, bottom = 0, 0, image.width, image.height
    if image.format == "GIF":  # whose picture may be smaller than its canvas
        left, top, right, bottom = next((tile[1] for tile in image.tile if tile[1]), (0, 0, 0, 0))
    rows = (bottom, bottom - 1) if image.info.get("interlace") else (bottom,)
    return [(left, row - 1, right, row) for row in rows if row > top]


def _values(image: Image.Image, box: Box) -> set[Any]:
    """Return the least and greatest values of a region, of all bands together."""
    region = image.crop(box)
    if region.mode.startswith("I;16"):  # of which Pillow finds no extrema in all byte orders
        values = np.asarray(region)
        return {int(values.min()), int(values.max())}
    extrema: Any = region.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return {value for band in bands for value in band}


def _fill_before_decoding(image: Any) -> None:
    """Let a decoder write into memory that is not 0."""
    prepare = image.load_prepare
    core: Any = vars(Image)["core"]

    def prepare_filled() -> None:
        prepare()
        bands = len(image.getbands())
        color = _OTHER if bands == 1 else (_OTHER,) * bands
        image.im = core.fill(image.im.mode, image.size, color)

    image.load_prepare = prepare_filled
