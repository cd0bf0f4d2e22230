"""Image files to pixels, in one place: read, decode, orient, resize.

Training's validation transform, int8 calibration, the command line and the server all call
`load_pixels`, so that no two of them can disagree. Everything else that a network needs
(normalisation, layout) is inside the bundle's graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from dlcv.runtime.errors import InputError
from dlcv.runtime.images.eight_bits import rgb_and_note, stored_as
from dlcv.runtime.images.file_formats import image_errors, opened
from dlcv.runtime.images.source import Source, UInt8

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlcv.runtime.bundle.schema import Preprocessing

Box: TypeAlias = tuple[float, float, float, float]

# A JPEG is decoded at no less than three times the target: on average 0.6/255 from the full decode
# at 32 pixels (1.4 with twice), equal to it where nothing is scaled.
_DRAFT_MARGIN = 3
_DRAFTED_FORMATS = ("JPEG", "MPO")  # of a HEIC, a draft would be another picture: its thumbnail
_ORIENTATION_TAG = 0x0112
_SWAPS_SIDES = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange width and height


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What a file does not say of itself.

    depth: bits that 16-bit grey values use, 1 to 16, as of a camera with 12; None: as the file says, else all 16.
    """

    depth: int | None = None

    def __post_init__(self) -> None:
        if self.depth is not None and not 1 <= self.depth <= 16:
            raise InputError(f"the depth of an image is 1 to 16 bits, not {self.depth}")


_AS_STORED = DecodeOptions()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the graph's pixels lie in the original image.

    size: (height, width) of the original, oriented image, in pixels.
    box: the region that the graph saw, xyxy in pixels of the original image.
    """

    size: tuple[int, int]
    box: Box


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image ready for a graph. pixels: uint8 (H, W, 3) RGB, C-contiguous.

    note: a sentence for people where the values are hardly those that the camera meant.
    """

    pixels: UInt8
    frame: Frame
    note: str | None = None


def load_pixels(
    source: Source, preprocessing: Preprocessing, options: DecodeOptions = _AS_STORED
) -> DecodedImage:
    """Read, decode, orient and resize one image.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W).
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
    scale = max(preprocessing.size) / max(size)
    multiple = preprocessing.multiple
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in size)
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
    with opened(source) as file:
        stored = stored_as(file)  # first: to find its EXIF, Pillow decodes a PNG
        size = _oriented_size(file)
        if file.format in _DRAFTED_FORMATS:
            _draft(file, oriented_size=size, target=target(size))
        image, note = rgb_and_note(_oriented(file), stored, depth=options.depth)
    return _Upright(image=image, size=size, note=note)


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    if image.getexif().get(_ORIENTATION_TAG) in _SWAPS_SIDES:
        return image.width, image.height
    return image.height, image.width


def _oriented(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _full_target(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Size (height, width) that the whole image would have at the graph's scale, with the margin."""
    height, width = input_size(size, preprocessing)
    if preprocessing.resize == "center_crop":
        scale = max(height / size[0], width / size[1]) / preprocessing.crop_fraction
        height, width = round(size[0] * scale), round(size[1] * scale)
    return height * _DRAFT_MARGIN, width * _DRAFT_MARGIN


def _draft(image: Image.Image, *, oriented_size: tuple[int, int], target: tuple[int, int]) -> None:
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8 while it decodes, never below `target`."""
    height, width = target
    if oriented_size != (image.height, image.width):
        height, width = width, height
    image.draft(None, (width, height))


def _resized(upright: _Upright, preprocessing: Preprocessing) -> DecodedImage:
    image, size = upright.image, upright.size
    height, width = input_size(size, preprocessing)
    box = (0.0, 0.0, float(size[1]), float(size[0]))
    if preprocessing.resize == "center_crop":
        box = _central_box(size, target=(height, width), fraction=preprocessing.crop_fraction)
    drafted_y, drafted_x = image.height / size[0], image.width / size[1]
    source_box = (box[0] * drafted_x, box[1] * drafted_y, box[2] * drafted_x, box[3] * drafted_y)
    if (image.height, image.width) != (height, width) or source_box != (0, 0, width, height):
        filter_ = Image.Resampling[preprocessing.resample.upper()]
        image = image.resize((width, height), filter_, box=source_box)
    frame = Frame(size=size, box=box)
    return DecodedImage(pixels=np.asarray(image), frame=frame, note=upright.note)


def _central_box(size: tuple[int, int], *, target: tuple[int, int], fraction: float) -> Box:
    scale = max(target[0] / size[0], target[1] / size[1]) / fraction
    height, width = min(target[0] / scale, size[0]), min(target[1] / scale, size[1])
    top, left = (size[0] - height) / 2, (size[1] - width) / 2
    return left, top, left + width, top + height


def _fit(size: tuple[int, int], *, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _image_from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise InputError(
            f"an image array must be uint8 (H, W, 3) RGB or (H, W), not {array.dtype} {array.shape}"
        )
    if array.size == 0:
        raise InputError(f"an image array needs at least one pixel, not {array.shape}")
    return Image.fromarray(array).convert("RGB")
