"""Every name of an image gives a path of its own, inside the folder, that the file system takes."""

import os
from pathlib import Path

import pytest

from dlcv.runtime.results.file_names import path_from_name

ODD_NAMES = [
    "",
    "/",
    ".",
    "..",
    "../..",
    "../x",
    "/etc/x",
    "a/../../x",
    "a//x",
    "a/./x",
    "a:b",
    "a_b",
    "bad\udcff",
    "bad\ud800",
    "nul\0",
    "line\nend\r\x1b[31m",
    '"quoted"',
    "-dash",
    "back\\slash",
    " ",
    "a" * 251,
    "a" * 255,
    "a" * 254,
    "日" * 85,
    "日" * 84,
    f"{'d' * 255}/x",
    "x.png",
    "x.png/y",
    "X.PNG/y",
    "x.png~/y",
]


@pytest.mark.parametrize(
    "name", ["x", "a/b/x", "a b", "日本/ü", ".x", "-x", "x.y", "bad\udcff", "a\nb"]
)
def test_a_name_that_can_be_kept_is_kept(name: str) -> None:
    assert path_from_name(name, ".png") == f"{name}.png"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_gives_a_file_inside_the_folder(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for attempt in range(2):
        path = path_from_name(name, ".png", attempt=attempt)
        assert ".." not in path.split("/")
        assert path.endswith(".png")
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text("x")
        assert (out / path).resolve().is_relative_to(out.resolve())
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208  # names alone


def test_two_names_never_give_one_path() -> None:
    paths = [path_from_name(n, ".png", attempt=a) for n in ODD_NAMES for a in range(3)]
    assert len(set(paths)) == len(paths)


def test_a_file_and_a_folder_never_want_one_path() -> None:
    """`a.jpg` and `a.png/b.jpg` in one folder: the first one's mask is what the second one's folder is called."""
    assert path_from_name("a", ".png") == "a.png"
    assert not path_from_name("a.png/b", ".png").startswith("a.png/")
