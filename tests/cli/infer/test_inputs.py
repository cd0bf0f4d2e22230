"""What `dlcv-infer` takes as images, what it says that it left out, and what it keeps decoders from saying."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcv.cli.edge import EXIT_FAILED, EXIT_SOME_REFUSED

NewPhoto = Callable[..., Path]
INFER = "import sys; from dlcv.cli.infer.app import main; main()"
TASKS = ("classify", "segment", "attend", "embed", "caption", "fewshot")


def infer(*arguments: Any, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", INFER, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def labels(ran: Any) -> dict[str, str]:
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    return {Path(record["image"]).name: record["label"] for record in records}


def photo_bytes(kind: str, color: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(new_photo: NewPhoto) -> Path:
    """A folder with a photo, and with files that are none by their suffix."""
    folder = new_photo("mixed/red.png", color="red").parent
    (folder / "blue.jfif").write_bytes(photo_bytes("JPEG", "blue"))
    (folder / "IM0001").write_bytes(photo_bytes("PNG", "lime"))
    for name in ("a.svg", "b.svg", "notes.txt", ".DS_Store"):
        (folder / name).write_text("no pixels")
    return folder


def test_a_run_ends_with_what_it_left_out(classify_bundle: Path, folder: Path) -> None:
    ran = infer("classify", folder, "-m", classify_bundle)
    assert labels(ran) == {"blue.jfif": "blue", "red.png": "red"}
    assert (ran.returncode, ran.stderr) == (
        0, "left out: 5 files (2 .svg, 1 (no suffix), 1 .txt, 1 hidden)\n2 answered\n",
    )  # fmt: skip


def test_all_files_are_tried_when_asked_for(classify_bundle: Path, folder: Path) -> None:
    ran = infer("classify", folder, "-m", classify_bundle, "--all-files")
    assert labels(ran) == {"IM0001": "green", "blue.jfif": "blue", "red.png": "red"}
    assert ran.returncode == EXIT_SOME_REFUSED
    assert f"refused {folder / 'notes.txt'}: not an image in a known format" in ran.stderr
    assert ran.stderr.endswith("left out: 1 file (1 hidden)\n3 answered, 3 refused\n")


def test_images_that_are_named_leave_nothing_out(classify_bundle: Path, folder: Path) -> None:
    ran = infer("classify", folder / "IM0001", folder / "red.png", "-m", classify_bundle)
    assert labels(ran) == {"IM0001": "green", "red.png": "red"}
    assert ran.stderr == "2 answered\n"


def test_a_folder_named_like_a_pattern_is_found(classify_bundle: Path, folder: Path) -> None:
    render = folder.rename(folder.parent / "Render[1]")
    ran = infer("classify", f"{render}/*.png", "-m", classify_bundle)
    assert labels(ran) == {"red.png": "red"}


@pytest.mark.parametrize("command", TASKS)
def test_every_task_takes_the_depth_and_all_files(command: str) -> None:
    text = infer(command, "--help", COLUMNS="200").stdout
    assert "--depth" in text
    assert "--all-files" in text


@pytest.mark.parametrize("depth", [0, 17])
def test_a_depth_that_no_image_has_is_a_usage_error(depth: int, folder: Path) -> None:
    ran = infer("classify", folder, "--depth", depth)
    assert ran.returncode == 2
    assert "Invalid value for '--depth': Input should be " in ran.stderr


def damaged_tiff(compression: str) -> bytes:
    data = bytearray(photo_bytes("TIFF", "red", compression=compression))
    data[12:20] = bytes(8)
    return bytes(data)


def test_decoders_print_nothing_of_their_own(classify_bundle: Path, folder: Path) -> None:
    (folder / "cut.tif").write_bytes(damaged_tiff("tiff_deflate"))
    (folder / "exif.jpg").write_bytes(
        photo_bytes("JPEG", "red", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0damaged")
    )
    samples = bytearray(photo_bytes("TIFF", "red"))
    tag = samples.index((277).to_bytes(2, "little") + b"\x03\0")  # samples per pixel
    samples[tag + 8 : tag + 10] = b"\xff\x7f"
    (folder / "samples.tif").write_bytes(samples)
    ran = infer("classify", folder, "-m", classify_bundle)
    assert ran.returncode == EXIT_SOME_REFUSED
    first, second, left_out, counts = ran.stderr.splitlines()
    assert first == f"refused {folder / 'cut.tif'}: damaged or cut short (decoder error -2)"
    assert second.startswith(f"refused {folder / 'samples.tif'}: damaged or cut short, or a kind")
    assert left_out.startswith("left out: ")
    assert counts == "3 answered, 2 refused"
    assert labels(ran)["exif.jpg"] == "red"


def test_a_host_program_hears_what_decoders_say(folder: Path) -> None:
    """The silence is the command line's alone: the libtiff in Pillow belongs to the whole process."""
    (folder / "cut.tif").write_bytes(damaged_tiff("tiff_deflate"))
    host = "import sys; from dlcv.runtime.images import load_display; load_display(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", host, folder / "cut.tif"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "ZIPDecode: " in ran.stderr


def test_a_heic_photo_is_answered(classify_bundle: Path, folder: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(folder / "phone.heic")
    ran = infer("classify", folder / "phone.heic", "-m", classify_bundle)
    assert labels(ran) == {"phone.heic": "red"}


def test_an_image_of_12_bits_is_told_of_until_its_depth_is_given(
    classify_bundle: Path, folder: Path
) -> None:
    path = folder / "mono12.png"
    Image.fromarray(np.full((30, 40), 4095, np.uint16)).save(path)
    given = ("classify", path, "-m", classify_bundle)
    note = f"{path}: 16-bit values up to 4,095 only; if the camera has 12 bits, give --depth 12\n"
    assert infer(*given).stderr == f"{note}1 answered\n"
    assert infer(*given, "--depth", 12).stderr == "1 answered\n"
    refused = infer(*given, "--depth", 10)
    assert "4,095 are more than 10 bits; give --depth 12 or more" in refused.stderr
    assert refused.returncode == EXIT_FAILED
