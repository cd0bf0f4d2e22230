"""A file that cannot be written whole is not written; what was there stays."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dlcv.runtime.errors import OutputError
from dlcv.runtime.machine.atomic_files import (
    AppendFile,
    drop_partial_line,
    move_to_new,
    write_atomically,
)

IN_A_FULL_DISK = """
mount -t tmpfs -o size=100k tmpfs {folder} || exit 77
{python} -c "from dlcv.cli.infer.app import main; main()" segment {photos} -m {bundle} --out {folder}/out
code=$?
cp -r {folder}/out {copy}
exit $code
"""


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        OutputError, match=r"the disk is full: .*file was not written; free some space"
    ):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    for name in ("a" * 255, "日" * 85):
        write_atomically(tmp_path / name, lambda file: file.write(b"x"))
        assert (tmp_path / name).read_bytes() == b"x"


def test_a_move_to_a_new_name_replaces_nothing(tmp_path: Path) -> None:
    temporary, path = tmp_path / "temporary", tmp_path / "path"
    for old in (lambda: path.write_text("theirs"), lambda: path.symlink_to("nowhere"), path.mkdir):
        temporary.write_text("ours")
        old()
        with pytest.raises(FileExistsError):
            move_to_new(temporary, path)
        assert temporary.exists()
        path.rmdir() if path.is_dir() else path.unlink()
    move_to_new(temporary, path)
    assert (path.read_text(), temporary.exists()) == ("ours", False)


def test_a_file_to_append_to_may_have_to_be_new(tmp_path: Path) -> None:
    with AppendFile(tmp_path / "lines", new=True) as file:
        file.append(b"one\n")
    with pytest.raises(OutputError, match=r"cannot write .*lines: File exists"):
        AppendFile(tmp_path / "lines", new=True)


def test_records_are_appended_whole(tmp_path: Path) -> None:
    with AppendFile(tmp_path / "lines") as file:
        file.append(b"one\n")
        file.append(b"two\n")
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"a\nb", b"a\n"),
        (b"a\n", b"a\n"),
        (b"half", b""),
        (b"a\n" + b"b" * 200_000, b"a\n"),
    ],
)
def test_a_partial_last_line_is_dropped(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before)
    drop_partial_line(path)
    assert path.read_bytes() == after


def test_a_full_disk_ends_the_run_in_one_sentence_and_loses_nothing(
    segment_bundle: Path, new_photo: Callable[..., Path], tmp_path: Path
) -> None:
    """A real file system of 100 kB, mounted in a namespace of its own."""
    photos = tmp_path / "photos"
    for number in range(60):
        new_photo(f"photos/{number}.png", size=(300, 300))
    for folder in ("disk", "copy"):
        (tmp_path / folder).mkdir()
    script = IN_A_FULL_DISK.format(
        folder=tmp_path / "disk",
        copy=tmp_path / "copy",
        python=sys.executable,
        photos=photos,
        bundle=segment_bundle,
    )
    try:
        ran = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except FileNotFoundError:
        pytest.skip("needs unshare(1) to mount a small file system")
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip("may not mount a small file system here")
    assert ran.returncode == 1
    assert "the disk is full" in ran.stderr
    assert ran.stderr.count("\n") == 1
    out = tmp_path / "copy" / "out"
    done = (out / "results.jsonl").read_text()
    assert done.endswith("\n")
    assert 0 < done.count("\n") < 60
    for mask in (out / "masks").glob("*.png"):
        with Image.open(mask) as image:
            image.load()
