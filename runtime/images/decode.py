"""Image files to pixels, in one place: read, decode, orient, resize.

Training's validation transform, int8 calibration, the command line and the server all call
`load_pixels`, so that no two of them can disagree. Everything else that a network needs
(normalisation, layout) is inside the bundle's graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from dlcv.runtime.errors import InputError
from dlcv.runtime.images.decoding_memory import PixelBudget
from dlcv.runtime.images.eight_bits import rgb_and_note, stored_as
from dlcv.runtime.images.file_formats import MAX_PIXELS, image_errors, opened
from dlcv.runtime.images.source import Source, UInt8
from dlcv.runtime.images.unwritten_rows import load_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlcv.runtime.bundle.schema import Preprocessing, Resample

Box: TypeAlias = tuple[float, float, float, float]

# A JPEG is decoded at no less than three times the target: on average 0.6/255 from the full decode
# at 32 pixels (1.4 with twice), equal to it where nothing is scaled.
_DRAFT_MARGIN = 3
_DRAFTED_FORMATS = ("JPEG", "MPO")  # of a HEIC, a draft would be another picture: its thumbnail
_ORIENTATION_TAG = 0x0112
_SUPPORT: dict[Resample, int] = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # pixels on either side
_SWAPS_SIDES = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange width and height
_BUDGET = PixelBudget(
    2 * MAX_PIXELS
)  # about 2 GB while they are converted; of photos, hardly ever reached


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What a file does not say of itself.

    depth: bits that 16-bit grey values use, 1 to 16, as of a camera with 12; None: as the file says, else all 16.
    max_pixels: a file with more is refused before it is decoded.
    """

    depth: int | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.depth is not None and not 1 <= self.depth <= 16:
            raise InputError(f"the depth of an image is 1 to 16 bits, not {self.depth}")


_AS_STORED = DecodeOptions()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the graph's pixels lie in the original image.

    size: (height, width) of the original, oriented image, in pixels.
    box: the region that the graph saw, xyxy in pixels of the original image; beyond its borders where it was padded.
    """

    size: tuple[int, int]
    box: Box


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image ready for a graph. pixels: uint8 (H, W, 3) RGB or (H, W, 1) greyscale, C-contiguous.

    note: a sentence for people where the values are hardly those that the camera meant.
    """

    pixels: UInt8
    frame: Frame
    note: str | None = None


def load_pixels(
    source: Source, preprocessing: Preprocessing, options: DecodeOptions = _AS_STORED
) -> DecodedImage:
    """Read, decode, orient and resize one image.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) RGB, (H, W) or (H, W, 1).
    The EXIF orientation is applied, alpha is dropped, 16-bit greyscale is scaled to 8 bits, and of
    an animation the first frame is taken. The one resize is Pillow's, antialiased.

    Raises:
        ImageError: the image cannot be read; the message is the reason.
        InputError: `source` is an array of another dtype or shape.
    """
    with image_errors():
        upright = _upright(source, options, target=lambda size: _full_target(size, preprocessing))
        return _resized(upright, preprocessing)


def load_display(
    source: Source, *, longest: int = 1024, options: DecodeOptions = _AS_STORED
) -> Image.Image:
    """Return the oriented RGB image for drawing on, its longer side at most `longest` pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    with image_errors():
        upright = _upright(source, options, target=lambda size: _fit(size, longest=longest))
    image = upright.image
    height, width = _fit((image.height, image.width), longest=longest)
    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def input_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) that an image of `size` (height, width) is resized to."""
    if preprocessing.resize != "longest_side":
        return preprocessing.size
    multiple, longest = preprocessing.multiple, max(preprocessing.size)
    height, width = (
        max(1, _rounded(side * longest, max(size) * multiple)) * multiple for side in size
    )
    return height, width


@dataclass(frozen=True, kw_only=True)
class _Upright:
    """An image as RGB, perhaps scaled down. size: (height, width) of the original, oriented image."""

    image: Image.Image
    size: tuple[int, int]
    note: str | None = None


def _upright(
    source: Source, options: DecodeOptions, *, target: Callable[[tuple[int, int]], tuple[int, int]]
) -> _Upright:
    """Decode and orient an image. target: the size from which on a decoder may scale down, for the original size."""
    if isinstance(source, np.ndarray):
        image = _image_from_array(source)
        return _Upright(image=image, size=(image.height, image.width))
    if isinstance(source, Image.Image):
        stored = stored_as(source)
        image, note = rgb_and_note(ImageOps.exif_transpose(source), stored, depth=options.depth)
        return _Upright(image=image, size=(image.height, image.width), note=note)
    with opened(source, max_pixels=options.max_pixels) as file:
        stored = stored_as(file)  # first: to find its EXIF, Pillow decodes a PNG
        size = _drafted(file, target)
        with _BUDGET.of(file.width * file.height):
            load_whole(file)
            size = size or _oriented_size(file)
            image, note = rgb_and_note(_oriented(file), stored, depth=options.depth)
    return _Upright(image=image, size=size, note=note)


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    if image.getexif().get(_ORIENTATION_TAG) in _SWAPS_SIDES:
        return image.width, image.height
    return image.height, image.width


def _oriented(image: Image.Image) -> Image.Image:
    image.load()
    if image.getexif().get(_ORIENTATION_TAG, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _full_target(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Size (height, width) that the whole image would have at the graph's scale, with the margin."""
    height, width = _placed(size, preprocessing).scaled
    return height * _DRAFT_MARGIN, width * _DRAFT_MARGIN


def _drafted(
    image: Image.Image, target: Callable[[tuple[int, int]], tuple[int, int]]
) -> tuple[int, int] | None:
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8 while it decodes, never below `target` of the original size.

    Return that size, (height, width) oriented; None of formats that are not scaled, whose EXIF may lie behind the pixels.
    """
    if image.format not in _DRAFTED_FORMATS:
        return None
    size = _oriented_size(image)
    height, width = target(size)
    if size != (image.height, image.width):
        height, width = width, height
    image.draft(None, (width, height))
    return size


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a whole image, resized to `scaled`, lies in the graph's input. All are (height, width) in pixels.

    offset: of its top left corner; negative where it is cropped, positive where it is padded. taken: the graph's input.
    """

    scaled: tuple[int, int]
    offset: tuple[int, int]
    taken: tuple[int, int]

    @property
    def inside(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The part of the input that the image fills: from, to."""
        (top, left), (height, width) = self.offset, self.taken
        start = max(0, top), max(0, left)
        return start, (min(height, top + self.scaled[0]), min(width, left + self.scaled[1]))

    def box(self, start: tuple[int, int], end: tuple[int, int], *, of: tuple[int, int]) -> Box:
        """Return a region of the input as xyxy in pixels of an image that has the size `of`, unscaled."""
        y, x = (side / scaled for side, scaled in zip(of, self.scaled, strict=True))
        top, left = self.offset
        return (start[1] - left) * x, (start[0] - top) * y, (end[1] - left) * x, (end[0] - top) * y


def _placed(size: tuple[int, int], preprocessing: Preprocessing) -> _Place:
    """Place an image of `size` (height, width). Sizes are rounded as by torchvision's Resize."""
    taken = input_size(size, preprocessing)
    if preprocessing.resize == "center_crop":
        scaled = _covering(size, taken, fraction=preprocessing.crop_fraction)
        half = round if preprocessing.crop_rounding == "even" else math.floor
        top, left = (-half((a - b) / 2) for a, b in zip(scaled, taken, strict=True))
        return _Place(scaled=scaled, offset=(top, left), taken=taken)
    if preprocessing.resize == "letterbox":
        # The side that is filled is the one that needs the smaller scale.
        filled = 0 if taken[0] * size[1] <= taken[1] * size[0] else 1
        height, width = (max(1, _rounded(side * taken[filled], size[filled])) for side in size)
        rest = (taken[0] - height, taken[1] - width)
        at_center = preprocessing.pad_at == "center"
        offset = (rest[0] // 2, rest[1] // 2) if at_center else (0, 0)
        return _Place(scaled=(height, width), offset=offset, taken=taken)
    return _Place(scaled=taken, offset=(0, 0), taken=taken)


def _rounded(numerator: int, denominator: int) -> int:
    """Return a quotient rounded to the nearest whole number, halves to the even one. Of floats, some halves are none."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest + whole % 2 > denominator)


def _covering(
    size: tuple[int, int], target: tuple[int, int], *, fraction: float
) -> tuple[int, int]:
    """Return the (height, width) at which an image covers the target, the side that just does being target / fraction."""
    least = [round(side / fraction) for side in target]
    if least[0] / size[0] >= least[1] / size[1]:
        return least[0], max(target[1], int(least[0] * size[1] / size[0]))
    return max(target[0], int(least[1] * size[0] / size[1])), least[1]


def _resized(upright: _Upright, preprocessing: Preprocessing) -> DecodedImage:
    image, size = upright.image, upright.size
    if preprocessing.channels == 1:
        image = image.convert("L")
    place = _placed(size, preprocessing)
    start, end = place.inside
    source = place.box(start, end, of=(image.height, image.width))  # it may have been scaled down
    height, width = end[0] - start[0], end[1] - start[1]
    if (image.height, image.width) != (height, width) or source != (0, 0, width, height):
        image = _region_resized(image, (height, width), source, preprocessing.resample)
    if (height, width) != place.taken:
        image = _padded(image, preprocessing.pad, place)
    frame = Frame(size=size, box=place.box((0, 0), place.taken, of=size))
    pixels = np.asarray(image)
    return DecodedImage(
        pixels=pixels if pixels.ndim == 3 else pixels[..., None], frame=frame, note=upright.note
    )


def _region_resized(
    image: Image.Image, size: tuple[int, int], box: Box, resample: Resample
) -> Image.Image:
    """Resize a region to (height, width), rows first and then columns, as Pillow did until version 13.

    Since then it chooses the order by the sizes, and of a region always did; another one moves up to a fifth of the values by 1
    of 255, and more where a filter overshoots. So each axis is resized by itself.
    """
    filter_, (height, width) = Image.Resampling[resample.upper()], size
    # Less the last digit's rounding, which Pillow would refuse as a region outside of the image.
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(box[2], float(image.width)), min(box[3], float(image.height))
    if (left, top, right, bottom) == (0, 0, image.width, image.height):
        return image.resize((width, image.height), filter_).resize((width, height), filter_)
    reach = _SUPPORT[resample] * max(1.0, (bottom - top) / height) + 1
    first, last = max(0, int(top - reach)), min(image.height, int(bottom + reach) + 1)
    rows = image.crop((0, first, image.width, last))
    rows = rows.resize((width, last - first), filter_, box=(left, 0, right, last - first))
    return rows.resize((width, height), filter_, box=(0, top - first, width, bottom - first))


def _padded(image: Image.Image, color: tuple[int, int, int], place: _Place) -> Image.Image:
    whole = Image.new("RGB", (place.taken[1], place.taken[0]), color).convert(image.mode)
    whole.paste(image, (place.offset[1], place.offset[0]))
    return whole


def _fit(size: tuple[int, int], *, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _image_from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    ):
        raise InputError(
            f"an image array must be uint8 (H, W, 3) RGB, (H, W) or (H, W, 1), not {array.dtype} {array.shape}"
        )
    if array.size == 0:
        raise InputError(f"an image array needs at least one pixel, not {array.shape}")
    grey = array.ndim == 3 and array.shape[2] == 1
    return Image.fromarray(array[..., 0] if grey else array).convert("RGB")
