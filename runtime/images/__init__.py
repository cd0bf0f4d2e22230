"""Everything from a name on a command line to pixels."""

from dlcv.runtime.images.decode import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    Box,
    DecodedImage,
    Frame,
    Source,
    UInt8,
    input_size,
    load_display,
    load_pixels,
    to_rgb,
)

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Box",
    "DecodedImage",
    "Frame",
    "Source",
    "UInt8",
    "input_size",
    "load_display",
    "load_pixels",
    "to_rgb",
]
