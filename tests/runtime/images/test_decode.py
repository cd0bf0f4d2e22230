"""Every kind of image file becomes the same pixels everywhere, or one sentence."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import input_size, load_display, load_pixels
from dlcv.runtime.images.samples import sample_paths

STRETCH = Preprocessing(resize="stretch", size=(8, 8))
NewPhoto = Callable[..., Path]


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg(size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"these are words, not pixels", "not an image in a known format"),
        (jpeg()[:300], "damaged or cut short"),
        (jpeg()[:-40], "damaged or cut short"),
        (png_header(20_000, 20_000), "too large: 20000x20000 pixels, at most 89,478,485"),
        (png_header(10_000, 9_000), "too large"),
        (png_header(8, 8), "damaged or cut short"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut short|not an image"),
        (b"%PDF-1.4 hello", "not an image in a known format"),
    ],
)
def test_bad_bytes_are_refused_with_the_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        with pytest.raises(ImageError, match=reason) as caught:
            load_pixels(source, STRETCH)
        assert "\n" not in str(caught.value)


def test_a_pil_image_that_cannot_be_decoded_is_refused_like_a_file() -> None:
    for load in (lambda image: load_pixels(image, STRETCH), load_display):
        with pytest.raises(ImageError, match="damaged or cut short"):
            load(Image.open(io.BytesIO(jpeg()[:-40])))


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_pixels(tmp_path / "gone.jpg", STRETCH)
    with pytest.raises(ImageError, match="a folder, not a file"):
        load_pixels(tmp_path, STRETCH)


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("L", 100, ".png", (100, 100, 100)),
        ("L", 100, ".jpg", (100, 100, 100)),
        ("1", 1, ".png", (255, 255, 255)),
        ("LA", (100, 7), ".png", (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), ".png", (10, 20, 30)),
        ("CMYK", (255, 0, 0, 0), ".tif", (0, 255, 255)),
        ("CMYK", (255, 0, 0, 0), ".jpg", (0, 255, 255)),
        ("I;16", 0x8000, ".png", (128, 128, 128)),
        ("I;16", 0x8000, ".tif", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, color: Any, suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image{suffix}"
    Image.new(mode, (20, 10), color).save(path)
    pixels = load_pixels(path, STRETCH).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to(np.array(expected), pixels.shape), atol=4)


def test_a_palette_with_transparency_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (10, 10), 1)
    image.putpalette([0, 0, 0, 200, 10, 60])
    image.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    assert load_pixels(tmp_path / "p.png", STRETCH).pixels[0, 0].tolist() == [200, 10, 60]


def test_a_floating_point_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match="floating-point pixels; save it with 8 or 16 bits"):
        load_pixels(tmp_path / "f.tif", STRETCH)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"moving{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    red, green, blue = load_pixels(path, STRETCH).pixels[4, 4].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((60, 100, 3), np.uint8)
    upright[:30, :50] = (255, 0, 0)  # red top left, blue top right, rest black
    upright[:30, 50:] = (0, 0, 255)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = Image.fromarray(upright)
    stored = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    stored.save(path, exif=exif, quality=95)
    decoded = load_pixels(path, Preprocessing(resize="longest_side", size=(40, 40)))
    assert decoded.frame.size == (60, 100)
    assert decoded.frame.box == (0, 0, 100, 60)
    assert decoded.pixels.shape == (24, 40, 3)
    assert decoded.pixels[6, 10].argmax() == 0
    assert decoded.pixels[6, 30].argmax() == 2
    assert decoded.pixels[20, 20].max() < 40
    assert load_display(path).size == (100, 60)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (24, 32)), ((640, 480), (32, 24)), ((1, 1), (32, 32)), ((1, 10_000), (8, 32))],
)
def test_longest_side_keeps_the_aspect_ratio_in_multiples(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(resize="longest_side", size=(32, 32), multiple=8)
    assert input_size(size, preprocessing) == expected
    assert load_pixels(np.zeros((*size, 3), np.uint8), preprocessing).pixels.shape == (*expected, 3)


def test_a_central_crop_says_which_region_it_saw() -> None:
    preprocessing = Preprocessing(resize="center_crop", size=(8, 8), crop_fraction=0.5)
    decoded = load_pixels(np.zeros((100, 300, 3), np.uint8), preprocessing)
    assert decoded.frame.box == (125, 25, 175, 75)
    one_pixel = load_pixels(np.full((1, 1, 3), 9, np.uint8), preprocessing)
    assert one_pixel.pixels.tolist() == [[[9, 9, 9]] * 8] * 8


@pytest.mark.parametrize(("rounding", "first"), [("even", 2), ("down", 1)])
def test_an_odd_rest_of_a_central_crop_is_halved_as_the_bundle_says(
    rounding: Any, first: int
) -> None:
    preprocessing = Preprocessing(resize="center_crop", size=(8, 8), crop_rounding=rounding)
    columns = np.broadcast_to(np.arange(11, dtype=np.uint8)[None, :, None], (8, 11, 3))
    decoded = load_pixels(np.ascontiguousarray(columns), preprocessing)
    assert decoded.pixels[0, :, 0].tolist() == list(range(first, first + 8))
    assert decoded.frame.box == (first, 0, first + 8, 8)
    with pytest.raises(ValueError, match="crop_rounding needs resize 'center_crop'"):
        Preprocessing(resize="stretch", size=(8, 8), crop_rounding="down")


def test_pixels_of_the_right_size_are_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(load_pixels(image, STRETCH).pixels, image)
    np.testing.assert_array_equal(load_pixels(Image.fromarray(image), STRETCH).pixels, image)


@pytest.mark.parametrize("photo", sample_paths(), ids=lambda path: path.stem)
def test_scaled_jpeg_decoding_stays_close_to_the_full_decoding(photo: Path) -> None:
    preprocessing = Preprocessing(resize="center_crop", size=(32, 32))
    drafted = load_pixels(photo, preprocessing).pixels.astype(int)
    with Image.open(photo) as image:
        full = load_pixels(np.asarray(image), preprocessing).pixels.astype(int)
    assert np.abs(drafted - full).mean() < 1.5
    assert np.abs(drafted - full).max() <= 14


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused(array: Any) -> None:
    with pytest.raises(InputError, match="image array"):
        load_pixels(array, STRETCH)


def test_a_display_image_keeps_small_photos_and_shrinks_large_ones(new_photo: NewPhoto) -> None:
    assert load_display(new_photo("small.png", size=(40, 30))).size == (40, 30)
    assert load_display(new_photo("large.jpg", size=(3000, 1500)), longest=600).size == (600, 300)


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of what it can repair
def test_damaged_files_of_every_format_are_decoded_or_refused_but_never_crash(kind: str) -> None:
    random = np.random.default_rng(1)
    buffer = io.BytesIO()
    pixels = random.integers(0, 256, (24, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(
        buffer, kind, **({} if kind in ("BMP", "GIF", "PPM", "JPEG2000") else {"exif": exif})
    )
    whole = buffer.getvalue()
    reasons = []
    for _ in range(300):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for position in random.integers(0, len(data), random.integers(0, 6)):
            data[position] = random.integers(0, 256)
        try:
            assert load_pixels(bytes(data), STRETCH).pixels.shape == (8, 8, 3)
        except ImageError as e:
            reasons.append(str(e))
    assert len(reasons) > 30
    assert not any("\n" in reason for reason in reasons)


@pytest.mark.parametrize("fraction", [1.0, 0.875, 224 / 235])
@pytest.mark.parametrize("size", [(333, 500), (501, 375), (256, 256), (97, 1203), (224, 225)])
def test_a_central_crop_is_the_whole_image_resized_and_cut(
    size: tuple[int, int], fraction: float
) -> None:
    """The reference is Pillow's resize of the whole image, with the sizes that torchvision documents, and a cut."""
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    side = round(224 / fraction)
    height, width = size
    scaled = (
        (side, int(side * width / height))
        if height <= width
        else (int(side * height / width), side)
    )
    whole = np.asarray(
        Image.fromarray(array).resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR)
    )
    top, left = (round((side - 224) / 2) for side in scaled)
    preprocessing = Preprocessing(resize="center_crop", size=(224, 224), crop_fraction=fraction)
    decoded = load_pixels(array, preprocessing)
    expected = whole[top : top + 224, left : left + 224].astype(int)
    difference = np.abs(decoded.pixels - expected)
    assert difference.max() <= 1  # Pillow takes the borders of a region as float32
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize(
    ("size", "pad_at", "inside", "box"),
    [
        ((40, 20), "center", (slice(0, 32), slice(8, 24)), (-10, 0, 30, 40)),
        ((40, 20), "end", (slice(0, 32), slice(0, 16)), (0, 0, 40, 40)),
        ((20, 40), "center", (slice(8, 24), slice(0, 32)), (0, -10, 40, 30)),
        ((32, 32), "center", (slice(0, 32), slice(0, 32)), (0, 0, 32, 32)),
        ((1, 999), "center", (slice(15, 16), slice(0, 32)), (0, -15, 999, 17)),
    ],
)
def test_a_letterbox_holds_the_whole_image_and_a_border(
    size: tuple[int, int],
    pad_at: Any,
    inside: tuple[slice, slice],
    box: tuple[int, ...],
) -> None:
    preprocessing = Preprocessing(
        resize="letterbox", size=(32, 32), pad=(1, 2, 3), pad_at=pad_at, resample="bicubic"
    )
    array = np.random.default_rng(0).integers(10, 256, (*size, 3), np.uint8)
    decoded = load_pixels(array, preprocessing)
    height, width = (part.stop - part.start for part in inside)
    image = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    expected = np.full((32, 32, 3), (1, 2, 3), np.uint8)
    expected[inside] = np.asarray(image)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.frame.box == pytest.approx(box)


def test_greyscale_is_that_of_pillow_before_the_resize() -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 20, 3), np.uint8)
    preprocessing = Preprocessing(
        resize="letterbox", size=(16, 16), pad=(255, 0, 0), channels=1, resample="bilinear"
    )
    decoded = load_pixels(array, preprocessing).pixels
    grey = Image.fromarray(array).convert("L").resize((8, 16), Image.Resampling.BILINEAR)
    assert decoded.shape == (16, 16, 1)
    np.testing.assert_array_equal(decoded[:, 4:12, 0], np.asarray(grey))
    assert set(decoded[:, :4].ravel()) == {76}  # red, by ITU-R BT.601
    np.testing.assert_array_equal(load_pixels(array, preprocessing).pixels, decoded)
    only = np.ascontiguousarray(array[..., :1])
    of_one = load_pixels(only, preprocessing).pixels
    np.testing.assert_array_equal(of_one, load_pixels(only[..., 0], preprocessing).pixels)
