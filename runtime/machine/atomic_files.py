"""Files and folders that a kill or a full disk cannot leave half written."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dlcv.runtime.errors import OutputError
from dlcv.runtime.machine.closing import Closing

_CHUNK_BYTES = 2**16
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
_NAME_CHARACTERS = 40  # of a name that its temporary name keeps: at 4 bytes each they fit into 255


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name beside it, then rename it into place.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    token = secrets.token_hex(4)
    temporary = path.with_name(f".{path.name[:_NAME_CHARACTERS]}.{token}.partial")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                write(file)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise output_error(path, e) from e


def move_to_new(temporary: Path, path: Path) -> None:
    """Give a file that is written whole its name; what has that name already is never replaced.

    Raises:
        FileExistsError: something has that name, also if it came in this moment.
        OSError: it cannot be moved.
    """
    try:
        os.link(temporary, path)  # unlike a rename it fails where something is
    except OSError as e:
        if e.errno not in _NO_HARD_LINKS:
            raise
    else:
        temporary.unlink()
        return
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary.rename(path)


def replace_folder(new: Path, target: Path) -> None:
    """Give a folder that is written whole its name. A folder that has the name is deleted, once the new one is in its place.

    Raises:
        OSError: it cannot be moved; the old folder is as it was.
    """
    if not target.exists():
        new.rename(target)
        return
    old = Path(
        tempfile.mkdtemp(prefix=f".{target.name[:_NAME_CHARACTERS]}-old-", dir=target.parent)
    )
    target.rename(old / "replaced")
    try:
        new.rename(target)
    except OSError:
        (old / "replaced").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the sentence for a file that cannot be written."""
    if error.errno in _NO_SPACE:
        return OutputError(
            f"the disk is full: {path} was not written; free some space, then run again with --resume"
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}")


class AppendFile(Closing):
    """A file that grows by whole records: a record that cannot be written whole is taken back."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Open a file to append to. new: it must not exist yet.

        Raises:
            OutputError: it cannot be opened.
        """
        self.path = path
        try:
            if new:
                path.touch(exist_ok=False)
            self._file = path.open("ab", buffering=0)
        except OSError as e:
            raise output_error(path, e) from e
        self._size = os.fstat(self._file.fileno()).st_size

    def append(self, record: bytes) -> None:
        """Append one record.

        Raises:
            OutputError: it cannot be written; the file is as it was before.
        """
        try:
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as e:
            self._file.truncate(self._size)
            raise output_error(self.path, e) from e
        self._size += len(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def drop_partial_line(path: Path) -> None:
    """Cut what stands after the last line end: a kill in the middle of a write leaves such a rest."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            if (position := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + position + 1)
                return
            end = start
        file.truncate(0)
