"""An image whose data ends early but properly is refused, whatever its format; one that ends in black is not."""

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import ImageError, ImageTooLargeError
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.decode import load_display
from dlcv.runtime.images.decoding_memory import PixelBudget

SQUARE = Preprocessing(resize="stretch", size=(32, 32))
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
COLOR_TYPES = {"L": 0, "RGB": 2, "P": 3, "LA": 4, "RGBA": 6}


def png(pixels: Any, mode: str, *, rows: int, interlace: bool = False) -> bytes:
    """A PNG of uint8 pixels (H, W, C) whose data stream ends properly after so many rows."""
    height, width = pixels.shape[:2]
    if interlace:
        passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        lines = [b"\0" + row.tobytes() for part in passes if part.size for row in part]
        lines = lines[: len(lines) - height + rows]
    else:
        lines = [b"\0" + row.tobytes() for row in pixels[:rows]]
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[mode], 0, 0, interlace)
    palette = [(b"PLTE", bytes(range(256)) * 3)] if mode == "P" else []
    chunks = [
        (b"IHDR", header),
        *palette,
        (b"IDAT", zlib.compress(b"".join(lines))),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def gif(pixels: Any, *, rows: int, transparent: bool = False) -> bytes:
    """A GIF of uint8 pixels (H, W) whose codes end properly after so many rows."""
    height, width = pixels.shape
    codes: list[int] = []
    for number, value in enumerate(pixels[:rows].ravel().tolist()):
        codes += [256, value] if number % 200 == 0 else [value]  # 256 keeps codes at 9 bits
    bits = sum(code << 9 * place for place, code in enumerate([*codes, 257]))
    data = bits.to_bytes((len(codes) + 1) * 9 // 8 + 1, "little")
    blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
    control = b"\x21\xf9\x04\x01\0\0\x07\0" if transparent else b""
    return b"".join(
        (
            b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + bytes(range(256)) * 3,
            control + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08",
            *(bytes([len(block)]) + block for block in blocks),
            b"\0;",
        )
    )


def tiff(pixels: Any, *, strips: int) -> bytes:
    """A TIFF of which only so many strips are listed."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo={278: 16})
    data = bytearray(file.getvalue())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] in (273, 279):  # StripOffsets, StripByteCounts
            assert struct.unpack_from("<I", data, entry + 4)[0] > strips
            struct.pack_into("<I", data, entry + 4, strips)
    return bytes(data)


NOISE = np.random.default_rng(0).integers(8, 250, (64, 48, 4), np.uint8)
GREY = np.ascontiguousarray(NOISE[..., 0])
SHORT: dict[str, Callable[[], bytes]] = {
    "png grey": lambda: png(NOISE[..., :1], "L", rows=20),
    "png RGB": lambda: png(NOISE[..., :3], "RGB", rows=63),
    "png palette": lambda: png(NOISE[..., :1], "P", rows=1),
    "png grey with alpha": lambda: png(NOISE[..., :2], "LA", rows=30),
    "png RGBA": lambda: png(NOISE, "RGBA", rows=20),
    "png without rows": lambda: png(NOISE[..., :3], "RGB", rows=0),
    "png interlaced": lambda: png(NOISE[..., :3], "RGB", rows=60, interlace=True),
    "gif": lambda: gif(GREY, rows=20),
    "gif, transparent": lambda: gif(GREY, rows=40, transparent=True),
    "tiff": lambda: tiff(np.ascontiguousarray(NOISE[..., :3]), strips=2),
}


@pytest.mark.parametrize("name", SHORT)
def test_rows_that_are_missing_in_the_data_are_noticed(name: str) -> None:
    data = SHORT[name]()
    with pytest.raises(ImageError, match="cut short"):
        load_pixels(data, SQUARE)
    with pytest.raises(ImageError, match="cut short"):
        load_display(data)


def whole() -> Iterator[tuple[str, bytes]]:
    """Images that are complete, of noise and with a black end."""
    for end in ("noise", "black"):
        pixels = NOISE.copy()
        pixels[-3:] = pixels[-3:] if end == "noise" else 0
        yield f"png {end}", png(pixels[..., :3], "RGB", rows=64)
        yield f"png RGBA {end}", png(pixels, "RGBA", rows=64)
        yield f"png palette {end}", png(pixels[..., :1], "P", rows=64)
        yield f"png interlaced {end}", png(pixels[..., :3], "RGB", rows=64, interlace=True)
        yield f"gif {end}", gif(pixels[..., 0], rows=64)
        for kind in ("PNG", "GIF", "TIFF", "BMP", "PPM"):
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels[..., :3])).save(file, kind)
            yield f"{kind} {end}", file.getvalue()
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] > 100).save(file, "TIFF", compression="group4")
        yield f"group 4 {end}", file.getvalue()


@pytest.mark.parametrize(("name", "data"), list(whole()), ids=[name for name, _ in whole()])
def test_a_black_end_is_none_that_is_missing(name: str, data: bytes) -> None:
    image = load_pixels(data, SQUARE)
    assert image.frame.size == (64, 48)
    if name.endswith("black"):
        assert image.pixels[-1].max() <= 2, "the first colour of the palette is 0, 1, 2"


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_files_that_were_answered_once_are_refused() -> None:
    with pytest.raises(ImageError, match="cut short"):
        load_pixels(CASES / "short_rows.png", SQUARE)
    with pytest.raises(ImageTooLargeError, match="at most 65,535 on a side"):
        load_pixels(CASES / "tall_1x89M.png", SQUARE)


def test_a_side_that_is_too_long_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageTooLargeError, match="65536x1 pixels, at most 65,535 on a side"):
        load_pixels(png(np.zeros((1, 65_536, 1), np.uint8), "L", rows=0), SQUARE)
    assert load_pixels(png(np.zeros((1, 65_535, 1), np.uint8), "L", rows=1), SQUARE).pixels.shape


def test_threads_share_the_memory_for_decoding() -> None:
    budget, most, inside, lock = PixelBudget(100), 0, 0, threading.Lock()

    def decode(pixels: int) -> None:
        nonlocal most, inside
        with budget.of(pixels):
            with lock:
                inside += pixels
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= pixels

    threads = [
        threading.Thread(target=decode, args=(pixels,)) for pixels in (40, 50, 30, 60, 20) * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 50 < most <= 100
    decode(1_000)  # alone, although it is more than all of them
    assert most == 1_000
