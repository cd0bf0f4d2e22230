"""Which files are images, and how they are opened: by their first bytes, never by their names.

`opened` calls Pillow's readers itself, as `Image.open` would. That function warns of large images, and a warning can be
silenced or raised only for the whole program, which is not ours; here a large image is refused, and nothing warns.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from PIL import Image

from dlcv.runtime.errors import DlcvError, ImageError, ImageTooLargeError

Reader: TypeAlias = Callable[[IO[bytes], str], Image.Image]
Accepts: TypeAlias = Callable[[bytes], "bool | str"]  # text: it would, but its decoder is missing

_PLUGINS = {  # format -> Pillow's module that reads it
    "JPEG": "JpegImagePlugin",  # MPO too, which phones and stereo cameras write as .jpg
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",
}
FORMATS = (*_PLUGINS, "HEIC")
SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff",
        ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc",
        ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif",
    )
)  # fmt: skip
MAX_PIXELS = 89_478_485  # Pillow's own limit: above it a file may be a decompression bomb
MAX_SIDE = 65_535  # as of JPEG; a longer one is a few bytes that unpack to a strip of pixels
_FIRST_BYTES = 128
# AVIF and HEIC files are one container, whose first box lists what is in it; the first brand that says so decides.
_CONTAINERS = frozenset(("AVIF", "HEIC"))
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"
)
_GENERAL_BRANDS = frozenset((b"mif1", b"msf1"))


@contextmanager
def opened(
    source: str | Path | bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Open an image file, not yet decoded; it is closed at the end.

    source: a path, a URL, or the bytes of a file. formats: of `FORMATS`; other files are not opened. max_pixels: of an
    image that is decoded.

    Raises:
        ImageError: it is empty, of no such format, damaged, or its decoder is missing.
        ImageTooLargeError: it has more pixels, or a side of more than `MAX_SIDE`.
    """
    path = "" if isinstance(source, bytes) or "://" in str(source) else str(source)
    with image_errors(), _file(source) as file, _identified(file, path, formats=formats) as image:
        if max(image.size) > MAX_SIDE:
            raise ImageTooLargeError(
                f"too large: {image.width}x{image.height} pixels, at most {MAX_SIDE:,} on a side are decoded; cut it into parts"
            )
        if image.width * image.height > max_pixels:
            raise ImageTooLargeError(
                _too_large(f"{image.width}x{image.height}", max_pixels=max_pixels)
            )
        yield image


def reopened(file: Any, *, of: str) -> Image.Image:
    """Return the image of an open file once more, not decoded. of: its format. (A pipe could not be opened twice.)"""
    file.seek(0)
    return _identified(file, "", formats=[of])


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever fails while an image is opened and decoded into an `ImageError`."""
    try:
        yield
    except DlcvError:
        raise
    except MemoryError as e:
        raise ImageError("not enough memory to decode it") from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        pixels = next(w for w in re.findall(r"\d+", str(e)))
        raise ImageTooLargeError(_too_large(pixels, max_pixels=MAX_PIXELS)) from e
    except Exception as e:  # the decoders raise OSError, ValueError, SyntaxError, struct.error, ...
        raise ImageError(_reason(e)) from e


def _file(source: str | Path | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if "://" in str(source):
        return io.BytesIO(_read_url(str(source)))
    file = Path(source).open("rb")  # noqa: SIM115  # `opened` closes it
    if file.seekable():
        return file
    with file:  # a pipe
        return io.BytesIO(file.read())


def _read_url(url: str) -> bytes:
    try:
        import fsspec
    except ModuleNotFoundError as e:
        raise ImageError("URLs need fsspec: pip install 'dlcv[remote]'") from e
    filesystem, path = fsspec.url_to_fs(url)
    data: bytes = filesystem.cat_file(path)
    return data


def _identified(file: IO[bytes], path: str, *, formats: Sequence[str]) -> Image.Image:
    """Give the file to the one reader that accepts its first bytes."""
    start = file.read(_FIRST_BYTES)
    if not start:
        raise ImageError("empty file")
    contained = _contained(start)
    for name in (n for n in formats if (n == contained if contained else n not in _CONTAINERS)):
        reader, accepts = _plugin(name)
        accepted = accepts(start)
        if isinstance(accepted, str):
            raise ImageError(f"this Pillow cannot decode {name}: pip install --upgrade pillow")
        if accepted:
            file.seek(0)
            return _read(reader, file, path, name=name)
    raise ImageError(f"not an image in a known format ({', '.join(formats)})")


def _read(reader: Reader, file: IO[bytes], path: str, *, name: str) -> Image.Image:
    try:
        return reader(file, path)
    except (SyntaxError, IndexError, TypeError, struct.error) as e:  # a reader's way to decline
        raise ImageError(
            f"damaged or cut short, or a kind of {name} that cannot be read ({_text(e)}); "
            "if others can open it, save it anew as PNG"
        ) from e


def _contained(start: bytes) -> str | None:
    """Return AVIF or HEIC for the first bytes of such a container, None for those of other files."""
    if start[4:8] != b"ftyp":
        return None
    size = max(16, int.from_bytes(start[:4]))
    box = start[:size]  # size, "ftyp", main brand, version, other brands
    brands = [box[8:12], *(box[at : at + 4] for at in range(16, len(box), 4))]
    general = "HEIC" if _GENERAL_BRANDS.intersection(brands) else None
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), general)


def _plugin(name: str) -> tuple[Reader, Accepts]:
    if name == "HEIC":
        return _heic_reader(), lambda _: True
    if name not in Image.OPEN:
        try:
            importlib.import_module(f"PIL.{_PLUGINS[name]}")
        except ModuleNotFoundError:  # AVIF came with Pillow 11.3
            return _no_reader, lambda _: "not in this Pillow"
    reader: Any
    reader, accepts = Image.OPEN[name]
    return reader, accepts or (lambda _: True)


def _no_reader(file: IO[bytes], path: str) -> Image.Image:
    raise NotImplementedError  # its `Accepts` lets nothing through


def _heic_reader() -> Reader:
    """Return pillow-heif's reader, without making it one of Pillow's, which all of the program would see."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as e:
        raise ImageError("HEIC needs pillow-heif: pip install 'dlcv[heic]'") from e
    return HeifImageFile


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    text = _text(error)
    if missing := re.fullmatch(r"(?:de|en)coder (\w+) not available", text):
        return f"this Pillow lacks the decoder {missing[1]}: pip install --upgrade pillow"
    return f"damaged or cut short ({text})"


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _too_large(what: str, *, max_pixels: int) -> str:
    return (
        f"too large: {what} pixels, at most {max_pixels:,} in all are decoded; scale it down first"
    )
