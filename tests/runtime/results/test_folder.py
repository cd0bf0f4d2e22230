"""A results folder beside other people's files, resumed and replaced."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import OutputError
from dlcv.runtime.images import Frame
from dlcv.runtime.images.folders import RESULTS_STATE
from dlcv.runtime.results import Refused, Segmentation, WriteOptions
from dlcv.runtime.results.base import LineFormat
from dlcv.runtime.results.folder import FolderWriter

RUN = {"dlcv": "0.1.0", "bundle": "toy", "bundle_sha256": "0" * 64, "precision": "fp32"}
HOWS: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}]
NAMES = ["a", "bad\udcff", "two\nlines", '"quoted"', "deep/../x", "b" * 251]


def result(image: str, *, level: int = 0) -> Segmentation:
    return Segmentation(
        source=image,
        frame=Frame(size=(3, 4), box=(0, 0, 4, 3)),
        engine="toy",
        classes=(ClassInfo(name="sky"), ClassInfo(name="sea")),
        graph_mask=np.full((3, 4), level, np.uint8),
    )


def writer(folder: Path, *, lines: LineFormat = "jsonl", **how: Any) -> FolderWriter:
    return FolderWriter(folder, WriteOptions(lines=lines, masks=True), run=dict(RUN), **how)


def write(into: FolderWriter, names: list[str]) -> list[str]:
    """Write images and close; return the files of their masks."""
    masks = []
    for name in names:
        answer = result(f"{name}.jpg")
        record = into.prepare(answer, name)
        into.commit(answer, record)
        masks.append(record["mask"])
    into.finish()
    into.close()
    return masks


def everything(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below a folder, except the state."""
    paths = [p for p in folder.rglob("*") if p.is_file() and RESULTS_STATE not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def without_list(folder: Path) -> None:
    """Make a folder what an earlier version left."""
    shutil.rmtree(folder / RESULTS_STATE)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "theirs",
    ["masks/x.png", "masks/deep/x.png", "run.json", "results.jsonl", "errors.jsonl", "masks"],
)
def test_what_is_in_the_way_is_an_error_and_nothing_changes(
    out: Path, theirs: str, how: dict[str, Any]
) -> None:
    for path in ("images/x.jpg", theirs):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text('{"image": "x"}\n')
    before = everything(out)
    with pytest.raises(OutputError, match=r"is in the way: dlcv writes there|has no run\.json"):
        writer(out, **how)
    assert everything(out) == before
    assert not (out / RESULTS_STATE).exists()


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_that_dlcv_did_not_make_is_in_the_way(out: Path, kind: str) -> None:
    theirs = out.parent / "theirs"
    if kind == "folder":
        theirs.mkdir(parents=True)
    elif kind == "file":
        theirs.write_text("theirs")
    out.mkdir()
    (out / "masks").symlink_to(theirs)
    with pytest.raises(OutputError, match="masks is in the way"):
        writer(out)


def test_a_folder_of_dlcvs_that_became_a_link_is_not_followed(out: Path) -> None:
    write(writer(out), ["a"])
    (out / "masks").rename(out.parent / "moved")
    (out / "masks").symlink_to(out.parent / "moved")
    for how in HOWS[1:]:
        with pytest.raises(OutputError, match="masks is in the way"):
            writer(out, **how)
    assert (out.parent / "moved" / "a.png").exists()


def test_results_go_beside_files_that_are_not_in_the_way(out: Path) -> None:
    theirs = ("images/x.jpg", "maps/x.npz", "results.csv", "notes.md")
    for path in theirs:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text("theirs")
    (out / "masks").mkdir()  # empty
    write(writer(out), ["a"])
    write(writer(out, overwrite=True), ["b"])
    assert all((out / path).read_text() == "theirs" for path in theirs)
    assert {*everything(out)} == {*theirs, "run.json", "results.jsonl", "masks/b.png"}


def test_overwrite_removes_what_dlcv_wrote_and_only_that(out: Path) -> None:
    write(writer(out, lines="csv"), ["a", "deep/b"])
    (out / "masks/mine.png").write_text("theirs")
    (out / "masks/deep/notes.md").write_text("theirs")
    write(writer(out, overwrite=True), ["c"])
    found = everything(out)
    assert {*found} == {
        "run.json", "results.jsonl", "masks/c.png", "masks/mine.png", "masks/deep/notes.md",
    }  # fmt: skip
    assert found["masks/mine.png"] == found["masks/deep/notes.md"] == b"theirs"
    write(writer(out, overwrite=True), ["c"])


def test_a_mask_that_somebody_drew_in_is_not_overwritten(out: Path) -> None:
    write(writer(out), ["a", "b"])
    Image.new("L", (4, 3)).save(out / "masks/a.png")
    before = everything(out)
    with pytest.raises(OutputError, match=r"masks/a\.png is no longer the file that dlcv wrote"):
        writer(out, overwrite=True)
    assert everything(out) == before


def test_a_list_without_its_run_json_counts_for_nothing(out: Path) -> None:
    """Somebody emptied the folder, but not of hidden files, and put masks of his own there."""
    write(writer(out), ["a"])
    for path in ("run.json", "results.jsonl", "masks/a.png"):
        (out / path).unlink()
    (out / "masks/a.png").write_text("theirs")
    for how in HOWS:
        with pytest.raises(OutputError, match="masks is in the way"):
            writer(out, **how)
    assert (out / "masks/a.png").read_text() == "theirs"


@pytest.mark.parametrize("lines", ["jsonl", "csv"])
@pytest.mark.parametrize("has_list", [True, False])
def test_resume_knows_every_image_that_is_done_and_writes_again_what_was_under_way(
    out: Path, lines: LineFormat, has_list: bool
) -> None:
    killed = writer(out, lines=lines)
    for name in NAMES:
        answer = result(f"{name}.jpg")
        killed.commit(answer, killed.prepare(answer, name))
    refused = Refused(source="no\udcffimage.jpg", reason="empty file")
    killed.commit(refused, killed.prepare(refused, "no"))
    killed.prepare(result("late.jpg"), "late")  # its mask is written, its line is not
    killed.close()
    if not has_list:
        without_list(out)
    assert (out / "masks/late.png").exists()
    resumed = writer(out, lines=lines, resume=True)
    assert resumed.done == Counter([*(f"{name}.jpg" for name in NAMES), "no\udcffimage.jpg"])
    assert resumed.refused_before == 1
    assert write(resumed, ["late"]) == ["masks/late.png"]
    assert len(list((out / "masks").rglob("*.png"))) == len(NAMES) + 1
    write(writer(out, lines=lines, overwrite=True), [])
    assert {*everything(out)} == {"run.json", f"results.{lines}"}


def test_resume_gives_a_new_image_of_an_old_name_a_file_of_its_own(out: Path) -> None:
    write(writer(out), ["a"])
    before = (out / "masks/a.png").read_bytes()
    again = writer(out, resume=True)
    (path,) = write(again, ["a"])
    assert path.startswith("masks/a~")
    assert (out / "masks/a.png").read_bytes() == before


@pytest.mark.parametrize("lines", ["jsonl", "csv"])
def test_overwrite_in_a_folder_of_an_earlier_version_leaves_the_masks_that_are_not_dlcvs(
    out: Path, lines: LineFormat
) -> None:
    write(writer(out, lines=lines), ["a", "deep/b"])
    without_list(out)
    Image.new("L", (4, 3)).save(out / "masks/mine.png")
    (out / "masks/notes.md").write_text("theirs")
    (out / "maps").mkdir()
    (out / "maps/x.npz").write_text("theirs")
    write(writer(out, overwrite=True), ["c"])
    assert {*everything(out)} == {
        "run.json", "results.jsonl", "masks/c.png", "masks/mine.png", "masks/notes.md", "maps/x.npz",
    }  # fmt: skip


def test_files_beside_a_run_json_of_another_program_are_not_dlcvs(out: Path) -> None:
    for text in ("", "[]", "{}", '{"options": {"lines": 3}}', '{"options": []}', '"x"'):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "run.json").write_text(text)
        with pytest.raises(OutputError, match=r"run\.json is in the way"):
            writer(out, overwrite=True)
        assert (out / "run.json").read_text() == text


def test_lines_of_another_program_beside_an_old_run_json_are_not_deleted(out: Path) -> None:
    write(writer(out), ["a"])
    without_list(out)
    (out / "results.jsonl").write_text("scribble\n")
    with pytest.raises(OutputError, match=r"results\.jsonl is in the way"):
        writer(out, overwrite=True)


def test_a_second_run_changes_nothing(out: Path) -> None:
    first = writer(out)
    before = everything(out)
    for how in HOWS:
        with pytest.raises(OutputError, match=r"another run is writing to .*; wait until it ends"):
            writer(out, **how)
    assert everything(out) == before
    write(first, ["a"])
    write(writer(out, resume=True), ["b"])


def test_a_run_that_may_not_start_lets_go_of_the_folder(out: Path) -> None:
    write(writer(out), ["a"])
    with pytest.raises(OutputError, match="already holds results; --resume goes on"):
        writer(out)
    writer(out, resume=True).close()


def test_files_are_called_after_the_image_and_stand_in_its_line(out: Path) -> None:
    masks = write(writer(out), NAMES)
    assert len({*masks}) == len(NAMES)
    assert masks[:4] == [f"masks/{name}.png" for name in NAMES[:4]]
    text = (out / "results.jsonl").read_bytes().decode()  # valid UTF-8
    records: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [record["image"] for record in records] == [f"{name}.jpg" for name in NAMES]
    for record in records:
        with Image.open(out / record["mask"]) as mask:
            mask.load()
