"""Image files to pixels, in one place: read, decode, orient, resize.

Training's validation transform, int8 calibration, the command line and the server all call
`load_pixels`, so that no two of them can disagree. Everything else that a network needs
(normalisation, layout) is inside the bundle's graph.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images.source import Source, UInt8

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import Preprocessing

Box: TypeAlias = tuple[float, float, float, float]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
MAX_PIXELS = 89_478_485  # Pillow's own limit: above it a file may be a decompression bomb
# A JPEG is decoded at no less than three times the target: on average 0.6/255 from the full decode
# at 32 pixels (1.4 with twice), equal to it where nothing is scaled.
_DRAFT_MARGIN = 3
_ORIENTATION_TAG = 0x0112
_SWAPS_SIDES = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange width and height

# Pillow warns between one and two times its limit; `_open` refuses from the limit on.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


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
    """An image ready for a graph. pixels: uint8 (H, W, 3) RGB, C-contiguous."""

    pixels: UInt8
    frame: Frame


def load_pixels(source: Source, preprocessing: Preprocessing) -> DecodedImage:
    """Read, decode, orient and resize one image.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W).
    The EXIF orientation is applied, alpha is dropped, 16-bit greyscale is scaled to 8 bits, and of
    an animation the first frame is taken. The one resize is Pillow's, antialiased.

    Raises:
        ImageError: the image cannot be read; the message is the reason.
        InputError: `source` is an array of another dtype or shape.
    """
    if isinstance(source, np.ndarray):
        return _resized(_image_from_array(source), preprocessing, oriented_size=None)
    if isinstance(source, Image.Image):
        with _decoding():
            return _resized(ImageOps.exif_transpose(source), preprocessing, oriented_size=None)
    with _decoding(), _open(source) as image:
        size = _oriented_size(image)
        _draft(image, oriented_size=size, target=_full_target(size, preprocessing))
        return _resized(_oriented(image), preprocessing, oriented_size=size)


def load_display(source: Source, *, longest: int = 1024) -> Image.Image:
    """Return the oriented RGB image for drawing on, its longer side at most `longest` pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    if isinstance(source, np.ndarray):
        image = _image_from_array(source)
    elif isinstance(source, Image.Image):
        with _decoding():
            image = to_rgb(ImageOps.exif_transpose(source))
    else:
        with _decoding(), _open(source) as file:
            size = _oriented_size(file)
            _draft(file, oriented_size=size, target=_fit(size, longest=longest))
            image = to_rgb(_oriented(file))
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any 8-bit or 16-bit image to RGB. Alpha is dropped, as every training pipeline does.

    Raises:
        ImageError: a floating-point image, whose range is not known.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ImageError("32-bit floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit greyscale; as "I" the same range in 32 bits
        values = np.asarray(image).astype(np.uint32)
        scaled = values >> 8 if values.max(initial=0) > 255 else values
        return Image.fromarray(np.minimum(scaled, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever fails while an image is opened and decoded into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as e:
        raise ImageError("not enough memory to decode it") from e
    except Exception as e:  # the decoders raise OSError, ValueError, SyntaxError, struct.error, ...
        raise ImageError(_reason(e)) from e


def _open(source: str | Path | bytes) -> Image.Image:
    file: Any = source
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    elif "://" in str(source):
        file = io.BytesIO(_read_url(str(source)))
    if (len(file.getbuffer()) if isinstance(file, io.BytesIO) else Path(file).stat().st_size) == 0:
        raise ImageError("empty file")
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageError(_too_large(f"{image.width}x{image.height}"))
    return image


def _read_url(url: str) -> bytes:
    try:
        import fsspec
    except ModuleNotFoundError as e:
        raise ImageError("URLs need fsspec: pip install 'dlcv[remote]'") from e
    filesystem, path = fsspec.url_to_fs(url)
    data: bytes = filesystem.cat_file(path)
    return data


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


def _resized(
    image: Image.Image, preprocessing: Preprocessing, *, oriented_size: tuple[int, int] | None
) -> DecodedImage:
    image = to_rgb(image)
    size = oriented_size or (image.height, image.width)
    height, width = input_size(size, preprocessing)
    box = (0.0, 0.0, float(size[1]), float(size[0]))
    if preprocessing.resize == "center_crop":
        box = _central_box(size, target=(height, width), fraction=preprocessing.crop_fraction)
    drafted_y, drafted_x = image.height / size[0], image.width / size[1]
    source_box = (box[0] * drafted_x, box[1] * drafted_y, box[2] * drafted_x, box[3] * drafted_y)
    if (image.height, image.width) != (height, width) or source_box != (0, 0, width, height):
        filter_ = Image.Resampling[preprocessing.resample.upper()]
        image = image.resize((width, height), filter_, box=source_box)
    return DecodedImage(pixels=np.asarray(image), frame=Frame(size=size, box=box))


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
    return to_rgb(Image.fromarray(array))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(FORMATS)})"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return _too_large(next(w for w in re.findall(r"\d+", str(error))))
    text = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or cut short ({text})"


def _too_large(what: str) -> str:
    return (
        f"too large: {what} pixels, at most {MAX_PIXELS:,} in all are decoded; scale it down first"
    )
