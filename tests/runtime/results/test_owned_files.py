"""Files of a results folder: new ones get names of their own, and what is somebody else's is not touched."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.folders import RESULTS_STATE
from dlcv.runtime.results.owned_files import OwnedFiles


def ours(file: BinaryIO) -> None:
    file.write(b"ours")


def add(files: OwnedFiles, name: str, *, suffix: str = ".txt") -> str:
    return files.add("masks", name, suffix=suffix, write=ours)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def files(out: Path) -> Iterator[OwnedFiles]:
    with OwnedFiles(out) as files:
        files.start([])
        yield files


def test_what_is_written_is_listed_with_the_folders_that_were_made(
    files: OwnedFiles, out: Path
) -> None:
    assert add(files, "a/b") == "masks/a/b.txt"
    assert (out / "masks/a/b.txt").read_text() == "ours"
    assert files.listed() == {"masks/", "masks/a/", "masks/a/b.txt"}
    assert not list((out / RESULTS_STATE).glob("*.partial"))


def test_a_file_is_listed_before_it_has_its_name(files: OwnedFiles, out: Path) -> None:
    """So that a kill in between leaves no file of dlcv's that nobody knows."""

    class Killed(BaseException):
        pass

    def die(temporary: Path, path: str) -> None:
        raise Killed

    files._move_to_new = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        add(files, "a")
    assert files.listed() == {"masks/", "masks/a.txt"}
    assert not (out / "masks/a.txt").exists()


def test_a_line_of_the_list_that_a_kill_cut_off_is_passed_over(
    files: OwnedFiles, out: Path
) -> None:
    add(files, "a")
    with (out / RESULTS_STATE / "files").open("a") as file:
        file.write('{"path": "masks/b')
    assert files.listed() == {"masks/", "masks/a.txt"}


def test_names_that_would_leave_the_folder_do_not_count_in_a_list(
    files: OwnedFiles, out: Path
) -> None:
    (out.parent / "theirs").write_text("theirs")
    with (out / RESULTS_STATE / "files").open("a") as file:
        for path in ("../theirs", "masks/../../theirs", str(out.parent / "theirs"), "../"):
            file.write(json.dumps({"path": path}) + "\n")
    assert files.listed() == set()


def test_a_list_of_somebody_else_is_damage(files: OwnedFiles, out: Path) -> None:
    for text in ("scribble\n", '["masks/a.txt"]\n', '{"path": "masks/a.txt"}\n'):
        (out / RESULTS_STATE / "files").write_text(text)
        with pytest.raises(OutputError, match="files is damaged, so what dlcv wrote"):
            files.listed()


def test_a_second_file_of_one_name_gets_another(files: OwnedFiles, out: Path) -> None:
    """A resumed run may name a new image as an earlier run named another."""
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: add(files, "a"), range(40)))
    assert len({*paths}) == 40
    assert all((out / path).read_text() == "ours" for path in paths)
    assert add(files, "a") not in paths


def test_names_that_differ_by_case_get_files_of_their_own_where_the_file_system_ignores_it(
    out: Path,
) -> None:
    with OwnedFiles(out, ignores_case=True) as files:
        files.start([])
        assert add(files, "A\u0301") == "masks/A\u0301.txt"
        (out / "masks/\u00e1.txt").symlink_to("A\u0301.txt")  # what such a file system does
        path = add(files, "\u00e1")
        assert path.startswith("masks/\u00e1~")
    assert (out / "masks/A\u0301.txt").read_text() == "ours"


def test_a_file_of_somebody_else_is_not_overwritten(files: OwnedFiles, out: Path) -> None:
    add(files, "a")
    (out / "masks/b.txt").write_text("theirs")
    with pytest.raises(OutputError, match=r"b\.txt is in the way: dlcv writes there, but never"):
        add(files, "b")
    assert (out / "masks/b.txt").read_text() == "theirs"
    assert "masks/b.txt" not in (files.listed() or ())


def test_a_file_that_appears_in_the_last_moment_is_not_overwritten(
    files: OwnedFiles, out: Path
) -> None:
    def meanwhile(file: BinaryIO) -> None:
        (out / "masks").mkdir()
        (out / "masks/a.txt").write_text("theirs")

    with pytest.raises(OutputError, match=r"a\.txt is in the way"):
        files.add("masks", "a", suffix=".txt", write=meanwhile)
    assert (out / "masks/a.txt").read_text() == "theirs"
    assert "masks/a.txt" not in (files.listed() or ())
    assert not list((out / RESULTS_STATE).glob("*.partial"))


def test_links_are_not_followed(files: OwnedFiles, out: Path) -> None:
    theirs = out.parent / "theirs"
    theirs.mkdir()
    (out / "masks").symlink_to(theirs)
    with pytest.raises(OutputError, match="masks is in the way"):
        add(files, "a")
    assert not list(theirs.iterdir())


def test_lines_are_not_appended_to_a_file_of_somebody_else(files: OwnedFiles, out: Path) -> None:
    (out / "errors.jsonl").write_text("theirs")
    with pytest.raises(OutputError, match=r"errors\.jsonl is in the way"):
        files.append_to("errors.jsonl")
    with pytest.raises(OutputError, match=r"errors\.jsonl is in the way"):
        files.write("errors.jsonl", ours)
    assert (out / "errors.jsonl").read_text() == "theirs"


def test_a_file_that_dlcv_wrote_once_is_replaced_whole(files: OwnedFiles, out: Path) -> None:
    for text in (b"one", b"two"):
        files.write("run.json", lambda file, text=text: file.write(text))  # type: ignore[misc]
        assert (out / "run.json").read_bytes() == text


def test_removing_leaves_what_is_not_dlcvs_and_the_folders_that_hold_it(
    files: OwnedFiles, out: Path
) -> None:
    for name in ("a", "deep/b"):
        add(files, name)
    add(files, "edited", suffix=".png")  # it does not say dlcv, as if somebody had drawn in it
    (out / "masks/notes.md").write_text("theirs")
    listed = files.listed() or set()
    with pytest.raises(OutputError, match=r"edited\.png is no longer the file that dlcv wrote"):
        files.require_unchanged(listed)
    files.remove(listed)
    assert {p.name for p in (out / "masks").iterdir()} == {"edited.png", "notes.md"}


def test_a_second_run_does_not_get_the_folder(files: OwnedFiles, out: Path) -> None:
    with pytest.raises(OutputError, match=r"another run is writing to .*out; wait until it ends"):
        OwnedFiles(out)
    files.close()
    OwnedFiles(out).close()
