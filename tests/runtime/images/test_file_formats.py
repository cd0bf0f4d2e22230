"""Every format opens by its first bytes, what cannot be opened says how it could be, and the host program stays as it was."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import ImageError
from dlcv.runtime.images import FORMATS, SUFFIXES, load_display, load_pixels
from dlcv.runtime.images.file_formats import opened

STRETCH = Preprocessing(resize="stretch", size=(8, 8))
LONGEST = Preprocessing(resize="longest_side", size=(40, 40))
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip

HOST = """
import io, sys, warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

Image.init()
Image.preinit()
before = list(warnings.filters), dict(Image.OPEN), dict(Image.EXTENSION), Image.MAX_IMAGE_PIXELS
import dlcv, dlcv.runtime
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.images import load_display, load_pixels

heic, bomb = (open(path, "rb").read() for path in sys.argv[1:])
warnings.filters.insert(0, ("error", None, Warning, None, 0))  # one would end this program
before[0].insert(0, warnings.filters[0])

def load(data):
    try:
        load_pixels(data, Preprocessing(resize="stretch", size=(8, 8)))
        load_display(data)
    except Exception as e:
        sys.stdout.write(str(e) + chr(10))

with ThreadPoolExecutor(8) as pool:
    list(pool.map(load, [heic, bomb] * 20))
after = list(warnings.filters), dict(Image.OPEN), dict(Image.EXTENSION), Image.MAX_IMAGE_PIXELS
assert before == after, (before, after)
"""


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if kind == "HEIC":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def colors() -> Image.Image:
    """Red top left, blue top right, black below."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:30, :50] = (255, 0, 0)
    pixels[:30, 50:] = (0, 0, 255)
    return Image.fromarray(pixels)


def test_importing_dlcv_and_decoding_leave_the_host_program_as_it_was(tmp_path: Path) -> None:
    heic, bomb = tmp_path / "photo.heic", tmp_path / "bomb.bmp"
    heic.write_bytes(saved(colors(), "HEIC"))
    header = bytearray(saved(Image.new("RGB", (4, 4)), "BMP"))
    header[18:26] = (10_000).to_bytes(4, "little") * 2  # where Pillow warns, and does not yet raise
    bomb.write_bytes(header)
    ran = subprocess.run(
        [sys.executable, "-c", HOST, heic, bomb],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    reason = "too large: 10000x10000 pixels, at most 89,478,485 in all are decoded"
    assert [line.partition(";")[0] for line in ran.stdout.splitlines()] == [reason] * 20


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jfif"), ("JPEG", ".jpe"), ("AVIF", ".avif"), ("HEIC", ".heic"), ("HEIC", ".heif"), ("HEIC", ".hif"),
        *(("JPEG2000", suffix) for suffix in (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_bytes", [True, False])
def test_every_suffix_of_a_folder_opens(
    kind: str, suffix: str, as_bytes: bool, tmp_path: Path
) -> None:
    assert suffix in SUFFIXES
    path = tmp_path / f"photo{suffix}"
    if kind == "JPEG2000":
        colors().save(path)  # the suffix chooses between a file and a bare stream
    else:
        path.write_bytes(saved(colors(), kind))
    decoded = load_pixels(path.read_bytes() if as_bytes else path, LONGEST)
    assert decoded.frame.size == (60, 100)
    assert decoded.pixels[6, 10].argmax() == 0
    assert decoded.pixels[6, 30].argmax() == 2
    assert decoded.pixels[20, 20].max() < 40


def test_folders_take_every_suffix_of_the_formats() -> None:
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert suffixes - SUFFIXES == {".pfm"}  # of floating-point numbers


def test_the_contents_and_not_the_name_say_what_a_file_is(tmp_path: Path) -> None:
    for kind in FORMATS:
        (tmp_path / "photo.jpg").write_bytes(saved(colors(), kind))
        assert load_pixels(tmp_path / "photo.jpg", LONGEST).frame.size == (60, 100)


def test_a_stereo_photo_gives_its_first_picture(tmp_path: Path) -> None:
    left, right = (Image.new("RGB", (640, 480), color) for color in ("red", "blue"))
    left.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[right])
    with Image.open(tmp_path / "stereo.jpg") as image:
        assert image.format == "MPO"
    for source in (tmp_path / "stereo.jpg", (tmp_path / "stereo.jpg").read_bytes()):
        assert load_pixels(source, STRETCH).pixels[4, 4].tolist() == [254, 0, 0]
        assert load_display(source).size == (640, 480)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_a_phone_photo_stands_upright(orientation: int, kind: str) -> None:
    stored = colors().transpose(TURNS[orientation]) if orientation in TURNS else colors()
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = load_pixels(saved(stored, kind, exif=exif.tobytes()), LONGEST)
    assert decoded.frame.size == (60, 100)
    assert decoded.pixels[6, 10].argmax() == 0
    assert decoded.pixels[6, 30].argmax() == 2


def test_the_thumbnail_in_a_heic_is_not_taken_for_the_photo() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = colors().resize((600, 360))
    kept, plain = io.BytesIO(), io.BytesIO()
    pillow_heif.from_pillow(photo).save(kept, thumbnails=[300])
    pillow_heif.from_pillow(photo).save(plain)
    pixels = [load_pixels(file.getvalue(), STRETCH).pixels for file in (kept, plain)]
    np.testing.assert_array_equal(pixels[0], pixels[1])


def test_a_heic_without_its_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(colors(), "HEIC")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"^HEIC needs pillow-heif: pip install 'dlcv\[heic\]'$"):
        load_pixels(data, STRETCH)


def test_a_container_with_a_general_brand_is_what_its_other_brands_say() -> None:
    for kind in ("AVIF", "HEIC"):
        data = bytearray(saved(colors(), kind))
        data[8:12] = b"mif1"
        assert load_pixels(bytes(data), LONGEST).frame.size == (60, 100)


@pytest.mark.parametrize(
    ("kind", "lacking", "reason"),
    [
        ("AVIF", lambda patch: patch.setattr(AvifImagePlugin, "SUPPORTED", False),
         "this Pillow cannot decode AVIF: pip install --upgrade pillow"),
        ("JPEG2000", lambda patch: patch.delattr("PIL.Image.core.jpeg2k_decoder"),
         "this Pillow lacks the decoder jpeg2k: pip install --upgrade pillow"),
    ],
)  # fmt: skip
def test_a_pillow_without_a_decoder_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    lacking: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    data = saved(colors(), kind)
    lacking(monkeypatch)
    with pytest.raises(ImageError, match=f"^{reason}$"):
        load_pixels(data, STRETCH)


def test_a_pillow_that_is_too_old_for_a_format_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(colors(), "AVIF")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(ImageError, match="this Pillow cannot decode AVIF"):
        load_pixels(data, STRETCH)


def test_a_kind_that_pillow_cannot_read_says_so() -> None:
    data = bytearray(saved(Image.new("L", (8, 8)), "TIFF"))
    bits = data.index((258).to_bytes(2, "little"))
    data[bits + 8] = 10  # bits a sample
    with pytest.raises(ImageError, match=r"or a kind of TIFF that cannot be read .*unknown pixel"):
        load_pixels(bytes(data), STRETCH)


def test_only_the_formats_asked_for_are_opened() -> None:
    with (
        pytest.raises(ImageError, match=r"not an image in a known format \(PNG, TIFF\)"),
        opened(saved(colors(), "JPEG"), formats=("PNG", "TIFF")),
    ):
        pass


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    import os
    import threading

    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    data = saved(colors(), "PNG")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert load_pixels(tmp_path / "pipe", LONGEST).frame.size == (60, 100)
    writer.join()
