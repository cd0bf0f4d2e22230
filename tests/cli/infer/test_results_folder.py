"""Results folders of real runs: beside a data set, of images with odd names, of two runs at once."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from dlcv.cli.edge import EXIT_FAILED, EXIT_SOME_REFUSED
from dlcv.cli.infer.task import _new_folder
from dlcv.runtime.images.folders import RESULTS_FOLDERS
from dlcv.runtime.results.lines import text_from_cell
from dlcv.runtime.results.recognition import FILE_FOLDERS

NewPhoto = Callable[..., Path]
INFER = "import sys; from dlcv.cli.infer.app import main; main()"
ODD_NAMES = sorted(
    (
        b"bad\xff.png",
        b"two\nlines.png",
        b"carriage\rreturn.png",
        b"\x1b[31mred.png",
        b'"quoted".png',
        b"it's.png",
        b"back\\slash\\udcff.png",
        b"-dash.png",
        b"co:lon.png",
        b"comma,.png",
        b"...png",
        "日本\u2028.png".encode(),
        b"a" * 251 + b".png",
        b"b" * 246 + b"\xff" + b".png",
        b"c" * 255,
    )
)


def start(*arguments: Any, cwd: Path | None = None, stdin: Any = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", INFER, *map(str, arguments)],
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def infer(*arguments: Any, stdin: bytes | None = None, cwd: Path | None = None) -> Any:
    run = start(*arguments, cwd=cwd, stdin=subprocess.PIPE)
    stdout, stderr = run.communicate(stdin, timeout=60)
    return subprocess.CompletedProcess(run.args, run.returncode, stdout.decode(), stderr.decode())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def not_in_the_folder(photos: Path) -> list[Path]:
    """Return the photos that a folder does not give: one is hidden, one has no suffix."""
    return [photos / "...png", photos / ("c" * 255)]


@pytest.fixture
def data_set(new_photo: NewPhoto) -> Path:
    """images/ and masks/, whose masks are drawn by hand."""
    for name in ("x", "y"):
        new_photo(f"data/images/{name}.png")
        new_photo(f"data/masks/{name}.png", color="white")
    return new_photo("data/masks/z.png").parent.parent


@pytest.fixture
def odd_photos(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    with Path(tmp_path / "plain.png").open("wb") as file:
        Image.new("RGB", (40, 30), "red").save(file, format="PNG")
    for name in ODD_NAMES:
        try:
            (folder / os.fsdecode(name)).write_bytes((tmp_path / "plain.png").read_bytes())
        except OSError:
            pytest.skip("this file system does not allow such names")
    return folder


@pytest.mark.parametrize("how", [(), ("--overwrite",), ("--resume",)])
def test_the_masks_of_a_data_set_are_neither_overwritten_nor_deleted(
    segment_bundle: Path, data_set: Path, how: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in data_set.rglob("*.png")}
    given = ("segment", data_set / "images", "-m", segment_bundle, "--out", data_set)
    ran = infer(*given, *how)
    assert ran.returncode == EXIT_FAILED
    assert ran.stderr == (
        f"dlcv-infer: {data_set / 'masks'} is in the way: dlcv writes there, but never over what it did not "
        "write; move it away, or choose another --out\n"
    )
    assert {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()} == before


def test_results_may_lie_beside_images(segment_bundle: Path, data_set: Path) -> None:
    (data_set / "masks").rename(data_set / "truth")
    before = {path: path.read_bytes() for path in data_set.rglob("*.png")}
    given = ("segment", data_set / "images", "-m", segment_bundle, "--out", data_set)
    assert infer(*given).returncode == 0
    assert infer(*given, "--overwrite").returncode == 0
    assert {path.name for path in (data_set / "masks").iterdir()} == {"x.png", "y.png"}
    assert {path: path.read_bytes() for path in before} == before


def test_a_mask_that_somebody_puts_there_during_the_run_ends_it(
    segment_bundle: Path, data_set: Path
) -> None:
    out = data_set.parent / "out"
    run = start("segment", "-", "-m", segment_bundle, "--out", out, stdin=subprocess.PIPE)
    assert run.stdin is not None
    while run.poll() is None and not (out / "results.jsonl").exists():
        pass
    (out / "masks").mkdir()
    (out / "masks" / "x.png").write_text("theirs")
    _, stderr = run.communicate(f"{data_set / 'images' / 'x.png'}\n".encode(), timeout=60)
    assert run.returncode == EXIT_FAILED
    assert f"{out / 'masks' / 'x.png'} is in the way" in stderr.decode()
    assert (out / "masks" / "x.png").read_text() == "theirs"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_any_name_comes_out_as_it_was_and_is_known_to_resume(
    segment_bundle: Path, odd_photos: Path, kind: str
) -> None:
    out = odd_photos.parent / "out"
    (odd_photos / os.fsdecode(b"broken\xfe\n.png")).write_bytes(b"")
    images = sorted(map(str, odd_photos.iterdir()))
    given = (
        "segment",
        odd_photos,
        *not_in_the_folder(odd_photos),
        "-m",
        segment_bundle,
        "--out",
        out,
        "-f",
        kind,
    )
    ran = infer(*given)
    assert ran.returncode == EXIT_SOME_REFUSED, ran.stderr
    assert f"refused {odd_photos}/broken\\udcfe\\n.png: empty file\n" in ran.stderr
    if kind == "jsonl":
        records = lines(out / "results.jsonl")
    else:
        with (out / "results.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        records = [{key: text_from_cell(cell) for key, cell in row.items()} for row in rows]
    refused = [record["image"] for record in lines(out / "errors.jsonl")]
    assert sorted([*refused, *(record["image"] for record in records)]) == images
    assert len({record["mask"] for record in records}) == len(records)
    assert all((out / record["mask"]).stat().st_size for record in records)
    again = infer(*given, "--resume")
    assert f"0 answered, {len(images)} done before, 1 refused;" in again.stderr
    replaced = infer(*given, "--overwrite")
    assert replaced.returncode == EXIT_SOME_REFUSED
    assert len([*(out / "masks").rglob("*.png")]) == len(records)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_any_name_stands_in_the_matrix(classify_bundle: Path, odd_photos: Path, kind: str) -> None:
    out = odd_photos.parent / "out"
    given = (
        "embed",
        odd_photos,
        *not_in_the_folder(odd_photos),
        "-m",
        classify_bundle,
        "--out",
        out,
        "-f",
        kind,
    )
    assert infer(*given).returncode == 0
    if kind == "npz":
        with np.load(out / "embeddings.npz") as arrays:
            names = arrays["images"].tolist()
    else:
        cells = parquet.read_table(out / "embeddings.parquet")["image"].to_pylist()
        names = [text_from_cell(cell) for cell in cells]
    assert names == [record["image"] for record in lines(out / "results.jsonl")]
    assert sorted(names) == sorted(map(str, odd_photos.iterdir()))
    assert f"{len(names)} done before" in infer(*given, "--resume").stderr


def test_names_go_in_as_lines_and_come_out_as_lines(
    classify_bundle: Path, odd_photos: Path
) -> None:
    names = [n for n in map(os.fsdecode, ODD_NAMES) if "\n" not in n]
    images = [str(odd_photos / name) for name in names]
    ran = infer(
        "classify",
        "-",
        "-m",
        classify_bundle,
        stdin=b"".join(os.fsencode(i) + b"\n" for i in images),
    )
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["image"] for line in ran.stdout.splitlines()] == images


def test_two_runs_at_once_do_not_mix(segment_bundle: Path, data_set: Path) -> None:
    out = data_set.parent / "out"
    given = ("segment", "-", "-m", segment_bundle, "--out", out)
    first = start(*given, stdin=subprocess.PIPE)
    while first.poll() is None and not (out / "results.jsonl").exists():
        pass
    for how in ((), ("--resume",), ("--overwrite",)):
        second = infer(*given, *how, stdin=b"")
        assert second.returncode == EXIT_FAILED
        assert second.stderr == (
            f"dlcv-infer: another run is writing to {out}; wait until it ends, or choose another --out\n"
        )
    first.communicate(f"{data_set / 'images' / 'x.png'}\n".encode(), timeout=60)
    assert first.returncode == 0
    assert len(lines(out / "results.jsonl")) == 1
    third = infer(*given, "--resume", stdin=f"{data_set / 'images' / 'x.png'}\n".encode())
    assert third.returncode == 0  # the lock died with its process


def test_runs_that_start_at_once_without_out_get_folders_of_their_own(
    segment_bundle: Path, data_set: Path
) -> None:
    given = ("segment", data_set / "images" / "x.png", "-m", segment_bundle)
    runs = [start(*given, cwd=data_set.parent) for _ in range(3)]
    said = [run.communicate(timeout=60)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    folders = ["dlcv-segment", "dlcv-segment-2", "dlcv-segment-3"]
    assert sorted(text.rsplit("results in ", 1)[1].strip() for text in said) == folders
    assert all(len(lines(data_set.parent / f / "results.jsonl")) == 1 for f in folders)


def test_a_new_folder_is_made_by_one_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(_new_folder, ["dlcv-segment"] * 40))
    assert len({*folders}) == 40
    assert all(folder.is_dir() for folder in folders)


def test_results_beside_their_images_are_not_read_as_images(
    segment_bundle: Path, new_photo: NewPhoto, tmp_path: Path
) -> None:
    new_photo("data/a.png")
    new_photo("data/sub/b.png")
    for _ in range(2):
        done = infer(
            "segment",
            tmp_path / "data",
            "-m",
            segment_bundle,
            "--out",
            tmp_path / "data",
            "--resume",
        )
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "data" / "results.jsonl").read_text().splitlines()) == 2


def test_the_folders_that_are_passed_over_are_those_that_results_go_to() -> None:
    assert frozenset(FILE_FOLDERS.values()) == RESULTS_FOLDERS
