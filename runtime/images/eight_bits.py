"""Pixels of any mode to 8-bit RGB. Of 16-bit values one must know how many bits are used, or the image turns black.

Cameras of industry and microscopes give 10, 12 or 14 bits in 16. How many is taken from the user, else from the
file's own words; where neither says, all 16 are, and an image that uses few of them gets a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.errors import ImageError

Values: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_FEW = 1 << 13  # an eighth of what 16 bits can hold
_BITS_PER_SAMPLE = 258
_LARGEST_VALUE_TAGS = (281, 341)  # MaxSampleValue, SMaxSampleValue
_CAMERA_DEPTHS = (10, 12, 14)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a file says of how its pixels are stored; asked before it is decoded.

    depth: bits of a grey value that are used; None: the file does not say.
    by_sbit: a PNG says so, whose values should be scaled to all 16 bits all the same, but need not be.
    is_scaled: the decoder scales grey values to all 16 bits, so no depth applies any more.
    is_deep_color: 16 bits a channel, of which Pillow keeps the upper 8.
    """

    depth: int | None = None
    by_sbit: bool = False
    is_scaled: bool = False
    is_deep_color: bool = False


_NOTHING_SAID = Stored()
_SCALED = Stored(is_scaled=True)
_DEEP_COLOR = Stored(is_deep_color=True)


def to_rgb(image: Image.Image, *, depth: int | None = None) -> Image.Image:
    """Convert any 8-bit or 16-bit image to RGB. Alpha is dropped, as every training pipeline does.

    depth: bits that 16-bit grey values use; None: as the file says, else all.

    Raises:
        ImageError: a floating-point image or values beyond 16 bits, whose range is not known, or beyond `depth`.
    """
    return rgb_and_note(image, stored_as(image), depth=depth)[0]


def stored_as(image: Image.Image) -> Stored:
    """Return what an image file that is open says of its pixels."""
    if not image.mode.startswith("I"):
        return _DEEP_COLOR if ";16" in str(_tile(image)[1][0]) else _NOTHING_SAID
    if image.format == "TIFF":
        return Stored(depth=_tiff_depth(image))
    if image.format == "PNG":
        depth = _png_depth(getattr(image, "fp", None))
        return Stored(depth=depth, by_sbit=depth is not None)
    return _SCALED if _is_scaled_by_decoder(image) else _NOTHING_SAID


def rgb_and_note(
    image: Image.Image, stored: Stored, *, depth: int | None
) -> tuple[Image.Image, str | None]:
    """Return the image as RGB, and a sentence where its values are hardly those that its camera meant.

    Raises:
        ImageError: as `to_rgb`.
    """
    if stored.is_deep_color:
        return _from_deep_color(image.convert("RGB"), depth)
    if image.mode == "RGB":
        return image, None
    if image.mode == "F":
        raise ImageError("32-bit floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit greyscale; as "I" the same range in 32 bits
        values, note = _eight_bits(np.asarray(image), stored, depth)
        return Image.fromarray(values).convert("RGB"), note
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB"), None


def _from_deep_color(image: Image.Image, depth: int | None) -> tuple[Image.Image, str | None]:
    if depth is not None and depth != 16:
        raise ImageError(
            f"color of 16 bits a channel, of which Pillow reads the upper 8, so --depth {depth} cannot be applied; "
            "save it with 8 bits a channel"
        )
    largest = max(high for _, high in _extrema(image))
    if depth is None and 0 < largest < _FEW >> 8:
        return image, (
            f"16-bit color values below {(largest + 1) << 8:,} only, of which Pillow reads the upper 8 bits; "
            "if the camera has fewer bits, save it with 8 bits a channel"
        )
    return image, None


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    found: Any = image.getextrema()  # a pair for each of several channels
    return tuple(found)


def _eight_bits(values: Values, stored: Stored, depth: int | None) -> tuple[Values, str | None]:
    lowest, largest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0 or largest >= 1 << 16:
        raise ImageError(
            f"values from {lowest:,} to {largest:,}, at most 0 to 65,535 are read; save it with 8 or 16 bits a channel"
        )
    note = None
    used = 16 if stored.is_scaled else depth or _stated_depth(values, stored, largest=largest)
    if used is None:
        used, note = 8 if largest <= 255 else 16, _note(largest)
    if largest >= 1 << used:
        raise ImageError(
            f"values up to {largest:,} are more than {used} bits; give --depth {largest.bit_length()} or more"
        )
    scaled = (
        values >> (used - 8) if used >= 8 else values.astype(np.uint16) * 255 // ((1 << used) - 1)
    )
    return scaled.astype(np.uint8), note


def _stated_depth(values: Values, stored: Stored, *, largest: int) -> int | None:
    """Return how many bits are used as the file says, unless its values show that this is wrong."""
    if stored.depth is None or largest >= 1 << stored.depth:
        return 16 if stored.by_sbit else None
    if stored.by_sbit and _lie_apart(values, 1 << (16 - stored.depth)):
        return 16
    return stored.depth


def _lie_apart(values: Values, step: int) -> bool:
    """Whether values are so far apart as those that were scaled up by `step`, give or take the rounding."""
    is_used = np.zeros(1 << 16, np.bool_)
    is_used[values.ravel()] = True
    return int(np.diff(np.flatnonzero(is_used)).min(initial=step)) >= step - 1


def _note(largest: int) -> str | None:
    if largest == 0 or largest >= _FEW:
        return None
    if largest <= 255:
        return f"16-bit values up to {largest} only, taken as 8 bits; if the camera has more, say how many with --depth"
    bits = next(depth for depth in _CAMERA_DEPTHS if largest < 1 << depth)
    return (
        f"16-bit values up to {largest:,} only; if the camera has {bits} bits, give --depth {bits}"
    )


def _tile(image: Image.Image) -> tuple[str, tuple[Any, ...]]:
    """Return the decoder that an image waits for, and its arguments: first of them how pixels are packed."""
    tiles = getattr(image, "tile", None)
    if not tiles:  # decoded, or not from a file
        return "", ("",)
    name, arguments = tiles[0][0], tiles[0][3]
    return str(name), arguments if isinstance(arguments, tuple) and arguments else (arguments,)


def _is_scaled_by_decoder(image: Image.Image) -> bool:
    if image.format == "JPEG2000":
        return True
    decoder, arguments = _tile(image)  # a PPM file states its largest value
    return image.format == "PPM" and decoder.startswith("ppm") and arguments[-1] != 65535


def _tiff_depth(image: Image.Image) -> int | None:
    """Return the depth that a TIFF's tags state: packed bits, or a largest value that is one less than a power of 2.

    Other largest values are statistics of the one image (TIFF 6.0, MaxSampleValue).
    """
    tags = getattr(image, "tag_v2", {})
    if 8 < (bits := _number(tags.get(_BITS_PER_SAMPLE))) < 16:
        return bits
    largest = (_number(tags.get(tag)) for tag in _LARGEST_VALUE_TAGS)
    return next((v.bit_length() for v in largest if 255 <= v < 65535 and v & (v + 1) == 0), None)


def _number(value: Any) -> int:
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, (int, float)) and first == first // 1 else 0


def _png_depth(file: IO[bytes] | None) -> int | None:
    """Return the depth in a PNG's sBIT chunk, which Pillow passes over; the file's place is kept."""
    if file is None or file.closed:
        return None
    place = file.tell()
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            size = int.from_bytes(head[:4])
            if head[4:] == b"sBIT":
                bits = file.read(1)
                return bits[0] if bits and 8 <= bits[0] < 16 else None
            file.seek(size + 4, 1)  # its check sum is four bytes
        return None
    finally:
        file.seek(place)
