"""What is named becomes images: patterns, links, and a count of what folders hold besides."""

import glob
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from dlcv.runtime.images.archives import files_in, files_within
from dlcv.runtime.images.source import Refused
from dlcv.runtime.images.sources import NamedImage, expand_inputs, left_out_line


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def found(*inputs: str | Path, all_files: bool = False) -> list[str]:
    """The names of images, and of what was refused its reason."""
    items = expand_inputs(map(str, inputs), all_files=all_files)
    return [i.reason if isinstance(i, Refused) else i.name for i in items]


def paths(*inputs: str | Path) -> list[str]:
    return [i.path for i in expand_inputs(map(str, inputs)) if isinstance(i, NamedImage)]


def test_a_folder_gives_its_images_and_counts_the_others(tmp_path: Path) -> None:
    touched(
        tmp_path, "a.jpg", "b.HEIC", "c.svg", "d.SVG", "notes.txt", "deep/README", "deep/.DS_Store"
    )
    touched(tmp_path, ".cache/hidden.jpg")
    left_out: Counter[str] = Counter()
    images = list(expand_inputs([str(tmp_path)], left_out=left_out))
    assert [image.name for image in images] == ["a", "b"]
    assert left_out == {".svg": 2, ".txt": 1, "(no suffix)": 1, "hidden": 1}
    assert left_out_line(left_out) == (
        "left out: 5 files (2 .svg, 1 (no suffix), 1 .txt, 1 hidden)"
    )
    assert left_out_line(Counter({".svg": 1})) == "left out: 1 file (1 .svg)"


def test_what_is_left_out_is_counted_as_the_folder_is_read(tmp_path: Path) -> None:
    touched(tmp_path, "a.txt", "b.jpg", "c.txt", "d.jpg")
    left_out: Counter[str] = Counter()
    images = expand_inputs([str(tmp_path)], left_out=left_out)
    assert not left_out
    next(images)
    assert left_out == {".txt": 1}
    assert len(list(images)) == 1
    assert left_out == {".txt": 2}


def test_all_files_of_a_folder_are_tried_but_hidden_ones(tmp_path: Path) -> None:
    touched(tmp_path, "IM0001", "scan.042", "scan.jpg", ".DS_Store")
    left_out: Counter[str] = Counter()
    images = expand_inputs([str(tmp_path)], all_files=True, left_out=left_out)
    assert [image.name for image in images] == ["IM0001", "scan", "scan-2"]
    assert left_out == {"hidden": 1}


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert found(touched(tmp_path, "a.txt")) == ["the folder holds no images"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    touched(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert found(tmp_path) == ["a", "cannot list it (Permission denied)"]
        assert found(tmp_path / "closed") == ["cannot list it (Permission denied)"]
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_links_to_folders_are_followed_once_and_without_loops(tmp_path: Path) -> None:
    touched(tmp_path / "elsewhere", "x.jpg", "deep/y.jpg")
    touched(tmp_path / "photos", "a.jpg", "sub/b.jpg")
    (tmp_path / "photos" / "0-to-sub").symlink_to("sub")
    (tmp_path / "photos" / "1-outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "2-outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "sub" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone").symlink_to("nowhere")
    expected = ["a", "sub/b", "1-outside/x", "1-outside/deep/y"]
    assert found(tmp_path / "photos") == expected
    (tmp_path / "linked").symlink_to("photos")
    assert found(tmp_path / "linked") == expected
    assert sorted(found(f"{tmp_path}/linked/**/*.jpg")) == ["a", "b", "x", "y"]
    assert found(f"{tmp_path}/**/sub/**/b.*") == ["b"]


def test_data_folders_follow_links_too(tmp_path: Path) -> None:
    touched(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    touched(tmp_path / "data", "dog/3.jpg", "dog/.hidden")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "up").symlink_to("..")
    expected = ["cat/1.jpg", "cat/2.jpg", "dog/.hidden", "dog/3.jpg"]
    assert list(files_in(tmp_path / "data")) == expected
    assert list(files_within(tmp_path / "data")) == expected


@pytest.mark.parametrize("folder", ["Render[1]", "a*b", "what?", "[!x]", "**", "~", "[1]/[2]"])
def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path, f"{folder}/a.jpg", f"{folder}/deep/b.jpg", "Render1/no.jpg", "aXb/no.jpg")
    for pattern in (f"{tmp_path}/{folder}/*.jpg", f"{tmp_path}/{folder}/[a]*"):
        assert found(pattern) == ["a"]
    assert found(f"{tmp_path}/{folder}/**/*.jpg") == ["a", "b"]
    assert found(tmp_path / folder) == ["a", "deep/b"]
    assert found(f"{tmp_path}/{folder}/a.jpg") == ["a"]
    monkeypatch.chdir(tmp_path)
    assert paths(f"{folder}/*.jpg") == [f"{folder}/a.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    touched(tmp_path, "IMG[1].jpg", "IMG1.jpg", "x[2]/IMG[1].jpg", "x[2]/IMG1.jpg")
    assert found(f"{tmp_path}/IMG[1].jpg") == ["IMG[1]"]
    assert found(f"{tmp_path}/x[2]/IMG[1].jpg") == ["IMG[1]"]
    assert found(f"{tmp_path}/x[2]/IMG[12].jpg") == ["IMG1"]


def test_a_pattern_of_any_depth_matches_what_pythons_own_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path, "a.jpg", "r1/b.jpg", "r1/x/y/c.jpg", "r2/x/d.png", ".h/e.jpg", "r2/.f.jpg")
    monkeypatch.chdir(tmp_path)
    for start in ("", "./", "r1/../", f"{tmp_path}/"):
        for pattern in (
            "**", "**/*.jpg", "**/*", "r[12]/**", "r?/**/*.jpg", "**/x/**/*.*", "**/**/c.jpg", "**/y/*", "*/**/x/*",
        ):  # fmt: skip
            matches = set(glob.glob(start + pattern, recursive=True))
            assert paths(start + pattern) == sorted(m for m in matches if not Path(m).is_dir())


def test_a_pattern_stays_a_pattern_where_nothing_is_called_so(tmp_path: Path) -> None:
    touched(tmp_path, "r1/a.jpg", "r2/b.jpg", "r3/c.jpg", "r1/deep/d.jpg")
    assert found(f"{tmp_path}/r[12]/*.jpg") == ["a", "b"]
    assert found(f"{tmp_path}/*/?.jpg") == ["a", "b", "c"]
    assert found(f"{tmp_path}/r[12]/**/*.jpg") == ["a", "d", "b"]
    assert found(f"{tmp_path}/r[45]/*.jpg") == ["no file matches this pattern"]


def test_urls_of_folders_and_patterns_behave_alike() -> None:
    memory = fsspec.filesystem("memory")
    folder = "memory://test_sources/Render[1]"
    for name in (
        "a.jpg",
        "b.svg",
        "IM1",
        "deep/c.heic",
        "deep/.hidden.jpg",
        ".cache/d.jpg",
        "e?x=1",
    ):
        memory.pipe(f"{folder}/{name}", b"x")
    memory.pipe("memory://test_sources/Render1/no.jpg", b"x")
    left_out: Counter[str] = Counter()
    assert [i.name for i in expand_inputs([folder], left_out=left_out)] == ["a", "c"]
    assert left_out == {".svg": 1, "(no suffix)": 2, "hidden": 1}
    assert sorted(found(folder, all_files=True)) == ["IM1", "a", "b", "c", "e?x=1"]
    assert found(f"{folder}/*.jpg") == ["a"]
    assert found(f"{folder}/**/*.heic") == ["c"]
    assert found(f"{folder}/e?x=1") == ["e?x=1"]


def test_a_listing_gives_its_lines(tmp_path: Path) -> None:
    touched(tmp_path, "a[1]/x.jpg", "a[1]/y.txt")
    left_out: Counter[str] = Counter()
    listing = io.StringIO(f"{tmp_path}/a[1]\n\n{tmp_path}/a[1]/*.txt\n")
    images = expand_inputs(["-"], listing=listing, left_out=left_out)
    assert [image.name for image in images] == ["x", "y"]
    assert left_out == {".txt": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_in_a_folder_is_left_out_and_not_waited_for(
    tmp_path: Path, new_photo: Callable[..., Path]
) -> None:
    new_photo("a.png")
    os.mkfifo(tmp_path / "pipe")
    left_out: Counter[str] = Counter()
    found = list(expand_inputs([str(tmp_path)], all_files=True, left_out=left_out))
    assert [image.name for image in found] == ["a"]
    assert left_out == {"special": 1}
