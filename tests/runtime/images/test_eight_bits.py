"""16-bit images become as bright as their camera meant, or a sentence says that they did not."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import DecodeOptions, load_display, load_pixels, to_rgb

SIZE = (16, 16)
STRETCH = Preprocessing(resize="stretch", size=SIZE)
RAMP_12 = np.linspace(0, 4095, 256).astype(np.uint16).reshape(SIZE)
RAMP_8 = (RAMP_12 >> 4).astype(np.uint8)  # what a camera of 12 bits means
NOISE_12 = np.random.default_rng(0).integers(0, 4096, SIZE).astype(np.uint16)
TWELVE = DecodeOptions(depth=12)


def png(values: np.ndarray[Any, Any], *, sbit: int | None = None) -> bytes:
    """A PNG of 16 bits a channel, grey or RGB, as the specification says."""
    height, width = values.shape[:2]
    color_type = 0 if values.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    parts = [b"\x89PNG\r\n\x1a\n"]
    parts += [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))]
    parts += [chunk(b"gAMA", struct.pack(">I", 100_000))]
    parts += [] if sbit is None else [chunk(b"sBIT", bytes([sbit] * (1 if color_type == 0 else 3)))]
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(
    data: bytes, size: tuple[int, int], *, bits: int, samples: int = 1, order: str = "<"
) -> bytes:
    """An uncompressed TIFF, as the specification says."""
    height, width = size
    entries = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 2 if samples == 3 else 1),
        (273, 122), (277, samples), (278, height), (279, len(data)),
    ]  # fmt: skip
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    fields = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    return head + struct.pack(f"{order}H", len(entries)) + fields + bytes(4) + data


def saved(values: np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def packed_12(values: np.ndarray[Any, Any]) -> bytes:
    """Two values in three bytes."""
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    return triples.astype(np.uint8).tobytes()


def grey(source: Any, options: DecodeOptions = DecodeOptions()) -> tuple[Any, str | None]:  # noqa: B008
    decoded = load_pixels(source, STRETCH, options)
    display = load_display(source, options=options)
    np.testing.assert_array_equal(np.asarray(display), decoded.pixels)
    assert np.ptp(decoded.pixels, axis=2).max() == 0
    return decoded.pixels[..., 0], decoded.note


def test_values_of_12_bits_without_a_word_give_a_note(tmp_path: Path) -> None:
    (tmp_path / "mono12.png").write_bytes(png(RAMP_12))
    for source in (
        tmp_path / "mono12.png",
        png(RAMP_12),
        tiff(RAMP_12.astype("<u2").tobytes(), SIZE, bits=16),
        tiff(RAMP_12.astype(">u2").tobytes(), SIZE, bits=16, order=">"),
        Image.fromarray(RAMP_12),
        Image.fromarray(RAMP_12.astype(np.int32)),
        saved(RAMP_12, "PPM"),
    ):
        pixels, note = grey(source)
        np.testing.assert_array_equal(pixels, RAMP_12 >> 8)
        assert note == "16-bit values up to 4,095 only; if the camera has 12 bits, give --depth 12"


def test_a_depth_that_is_given_makes_them_bright() -> None:
    for source in (
        png(RAMP_12),
        tiff(RAMP_12.astype("<u2").tobytes(), SIZE, bits=16),
        tiff(RAMP_12.astype(">u2").tobytes(), SIZE, bits=16, order=">"),
        Image.fromarray(RAMP_12),
        Image.fromarray(RAMP_12.astype(np.int32)),
        saved(RAMP_12, "PPM"),
    ):
        pixels, note = grey(source, TWELVE)
        np.testing.assert_array_equal(pixels, RAMP_8)
        assert note is None
    np.testing.assert_array_equal(
        np.asarray(to_rgb(Image.fromarray(RAMP_12), depth=12))[..., 0], RAMP_8
    )


@pytest.mark.parametrize(
    ("largest", "depth"), [(300, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (8191, 14)]
)
def test_a_note_names_the_next_depth_of_cameras(largest: int, depth: int) -> None:
    assert str(grey(png(np.full(SIZE, largest)))[1]).endswith(
        f"up to {largest:,} only; if the camera has {depth} bits, give --depth {depth}"
    )


def test_an_image_that_uses_an_eighth_of_its_range_or_none_has_no_note() -> None:
    for value in (0, 8192, 65535):
        pixels, note = grey(png(np.full(SIZE, value)))
        assert (pixels.max(), note) == (value >> 8, None)


def test_values_that_8_bits_hold_are_taken_as_8_bits_with_a_note() -> None:
    values = np.arange(256).reshape(SIZE)
    pixels, note = grey(png(values))
    np.testing.assert_array_equal(pixels, values)
    assert note is not None
    assert note.startswith("16-bit values up to 255 only, taken as 8 bits; if the camera has more")
    assert grey(png(values), DecodeOptions(depth=16))[0].max() == 0


@pytest.mark.parametrize(("depth", "value", "expected"), [(1, 1, 255), (4, 15, 255), (4, 7, 119)])
def test_a_depth_below_8_bits_is_scaled_up(depth: int, value: int, expected: int) -> None:
    pixels, _ = grey(png(np.full(SIZE, value)), DecodeOptions(depth=depth))
    assert set(pixels.ravel().tolist()) == {expected}


def test_values_beyond_the_depth_are_refused() -> None:
    with pytest.raises(
        ImageError, match="values up to 4,095 are more than 10 bits; give --depth 12 or more"
    ):
        load_pixels(png(RAMP_12), STRETCH, DecodeOptions(depth=10))  # fmt: skip


@pytest.mark.parametrize("depth", [0, 17, -1])
def test_a_depth_that_no_image_has_is_refused(depth: int) -> None:
    with pytest.raises(InputError, match=f"the depth of an image is 1 to 16 bits, not {depth}"):
        DecodeOptions(depth=depth)


@pytest.mark.parametrize("tag", [281, 341])
def test_the_largest_value_in_a_tiff_tells_its_depth(tag: int) -> None:
    pixels, note = grey(saved(RAMP_12 // 2, "TIFF", tiffinfo={tag: 4095}))
    np.testing.assert_array_equal(pixels, RAMP_12 // 2 >> 4)
    assert note is None


@pytest.mark.parametrize("value", [3000, 1023, 65535])
def test_a_largest_value_that_tells_no_depth_or_a_wrong_one_is_not_believed(value: int) -> None:
    pixels, note = grey(saved(RAMP_12, "TIFF", tiffinfo={281: value}))
    np.testing.assert_array_equal(pixels, RAMP_12 >> 8)
    assert note is not None


def test_a_depth_that_is_given_counts_more_than_the_file() -> None:
    pixels, _ = grey(saved(RAMP_12, "TIFF", tiffinfo={281: 4095}), DecodeOptions(depth=14))
    np.testing.assert_array_equal(pixels, RAMP_12 >> 6)


def test_a_tiff_of_packed_12_bits_is_bright() -> None:
    pixels, note = grey(tiff(packed_12(RAMP_12), SIZE, bits=12))
    np.testing.assert_array_equal(pixels, RAMP_8)
    assert note is None


def test_the_significant_bits_of_a_png_tell_its_depth() -> None:
    pixels, note = grey(png(NOISE_12, sbit=12))
    np.testing.assert_array_equal(pixels, NOISE_12 >> 4)
    assert note is None


@pytest.mark.parametrize(
    "scaled", [NOISE_12 << 4, (NOISE_12 >> 5) << 4, (NOISE_12 >> 4).astype(int) * 65535 // 4095]
)
def test_a_png_that_scaled_its_significant_bits_as_it_should_is_not_scaled_again(
    scaled: Any,
) -> None:
    pixels, note = grey(png(scaled, sbit=12))
    np.testing.assert_array_equal(pixels, scaled >> 8)
    assert note is None


@pytest.mark.parametrize("options", [DecodeOptions(), TWELVE])
def test_a_pgm_is_scaled_by_the_largest_value_that_it_states(options: DecodeOptions) -> None:
    data = b"P5 16 16 4095\n" + RAMP_12.astype(">u2").tobytes()
    pixels, note = grey(data, options)
    np.testing.assert_allclose(pixels.astype(int), RAMP_8, atol=1)
    assert note is None


@pytest.mark.parametrize("options", [DecodeOptions(), TWELVE])
def test_a_jpeg_2000_is_scaled_by_its_decoder(options: DecodeOptions) -> None:
    pixels, note = grey(saved(RAMP_12, "JPEG2000"), options)  # of 16 bits, as Pillow writes it
    np.testing.assert_array_equal(pixels, RAMP_12 >> 8)
    assert note is None


@pytest.mark.parametrize("values", [RAMP_12.astype(np.int32) - 1, RAMP_12.astype(np.int32) << 5])
def test_values_beyond_16_bits_are_refused(values: Any) -> None:
    with pytest.raises(ImageError, match="at most 0 to 65,535 are read; save it with 8 or 16"):
        load_pixels(saved(values, "TIFF"), STRETCH)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_color_of_16_bits_says_what_cannot_be_done(kind: str) -> None:
    def stored(values: Any) -> bytes:
        color = np.repeat(values[..., None], 3, axis=2)
        data = color.astype("<u2").tobytes()
        return png(color) if kind == "png" else tiff(data, SIZE, bits=16, samples=3)

    bright, note = grey(stored(RAMP_12 << 4))
    np.testing.assert_array_equal(bright, RAMP_8)
    assert note is None
    assert grey(stored(RAMP_12 << 4), DecodeOptions(depth=16))[1] is None
    dark, note = grey(stored(RAMP_12))
    np.testing.assert_array_equal(dark, RAMP_12 >> 8)
    assert note is not None
    assert note.startswith(
        "16-bit color values below 4,096 only, of which Pillow reads the upper 8"
    )
    with pytest.raises(ImageError, match="so --depth 12 cannot be applied; save it with 8 bits"):
        load_pixels(stored(RAMP_12), STRETCH, TWELVE)


def test_images_of_8_bits_have_no_depth() -> None:
    for values in (RAMP_8, np.repeat(RAMP_8[..., None], 3, axis=2)):
        pixels, note = grey(saved(values, "PNG"), TWELVE)
        np.testing.assert_array_equal(pixels, RAMP_8)
        assert note is None
