"""Everything from a name on a command line to pixels."""

from dlcv.runtime.images.decode import (
    Box,
    DecodedImage,
    DecodeOptions,
    Frame,
    input_size,
    load_display,
    load_pixels,
)
from dlcv.runtime.images.eight_bits import to_rgb
from dlcv.runtime.images.file_formats import FORMATS, MAX_PIXELS, SUFFIXES
from dlcv.runtime.images.source import Refused, Source, UInt8, name_of, source_of

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Box",
    "DecodeOptions",
    "DecodedImage",
    "Frame",
    "Refused",
    "Source",
    "UInt8",
    "input_size",
    "load_display",
    "load_pixels",
    "name_of",
    "source_of",
    "to_rgb",
]
