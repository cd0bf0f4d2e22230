"""The files of a results folder: one run at a time writes them, and nothing that dlcv did not write is touched.

The folder `.dlcv` in a results folder holds

    lock        locked by the run that writes, until it ends
    files       a line of JSON for each file of dlcv's, written before the file is, and each folder (it ends in /)
    N.partial   files that are being written; they get their names once they are whole
    embeddings.f32  the rows of a matrix of embeddings that is not finished
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias, final

from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.folders import RESULTS_STATE
from dlcv.runtime.machine.atomic_files import (
    AppendFile,
    move_to_new,
    output_error,
    write_atomically,
)
from dlcv.runtime.machine.closing import Closing
from dlcv.runtime.machine.process_lock import try_to_lock
from dlcv.runtime.results.file_names import path_from_name
from dlcv.runtime.results.lines import json_text, line_from_record
from dlcv.runtime.results.recognition import is_own_file, stays_inside

Write: TypeAlias = Callable[[BinaryIO], object]

_HEADER = {"dlcv": "files of this results folder"}


def require_free(folder: Path, names: Iterable[str], *, owned: set[str]) -> None:
    """Check that nothing stands where a run will write, except what is dlcv's, and empty folders.

    names: of files and folders in the results folder. owned: paths of dlcv's files.

    Raises:
        OutputError: something is in the way.
    """
    own = {path.split("/")[0] for path in owned}
    for name in names:
        path = folder / name
        if not os.path.lexists(path) or (name in own and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
            raise _in_the_way(path)


@final
class OwnedFiles(Closing):
    """Writes the files of one results folder, and remembers them. Its methods may be called from several threads."""

    def __init__(self, folder: Path, *, ignores_case: bool | None = None) -> None:
        """Make the folder if there is none, and lock it against other runs.

        ignores_case: whether `A` and `a` are one file there; None: found out.

        Raises:
            OutputError: another run writes into it, or it cannot be written.
        """
        self.folder = folder
        self.state = folder / RESULTS_STATE
        self._mutex = threading.Lock()
        self.matrix = self.state / "embeddings.f32"
        self._numbers = itertools.count()
        self._under_way: set[str] = set()  # of files that are being written, see `_key`
        self._listed: set[str] | None = None  # the same of all files; read when two want one name
        self._folders: set[str] = set()  # that were seen to be folders, not links
        self._own: set[str] = set()  # files without a folder of their own, such as run.json
        self._list: AppendFile | None = None
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            if self.state.is_symlink():
                raise _in_the_way(self.state)
            self._lock = (self.state / "lock").open("ab")
        except OSError as e:
            raise output_error(folder, e) from e
        if not try_to_lock(self._lock):
            self._lock.close()
            raise OutputError(
                f"another run is writing to {folder}; wait until it ends, or choose another --out"
            )
        self._ignores_case = (
            (self.state / "LOCK").exists() if ignores_case is None else ignores_case
        )

    def listed(self) -> set[str] | None:
        """Return the paths that the folder's own list holds; None if it has none."""
        path = self.state / "files"
        try:
            if not os.path.lexists(path):
                return None
            with path.open(encoding="utf-8") as file:
                return _paths_in(line for line in file if line.endswith("\n"))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise OutputError(
                f"{path} is damaged, so what dlcv wrote to {self.folder} is not known ({e}); choose another --out"
            ) from e

    def require_unchanged(self, paths: Iterable[str]) -> None:
        """Check that what lies at the paths of dlcv's files is still what dlcv wrote there.

        Raises:
            OutputError: it is not.
        """
        for path in paths:
            if path.endswith("/") or not self._is_there(path):
                continue
            if not is_own_file(self.folder, path):
                raise OutputError(
                    f"{self.folder / path} is no longer the file that dlcv wrote there; move it away, or "
                    "choose another --out"
                )

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files of dlcv's, and folders of dlcv's that are empty then; what is no longer dlcv's stays.

        Raises:
            OutputError: a file cannot be deleted.
        """
        files = [path for path in paths if not path.endswith("/")]
        for path in files:
            if self._is_there(path) and is_own_file(self.folder, path):
                try:
                    (self.folder / path).unlink()
                except OSError as e:
                    raise output_error(self.folder / path, e) from e
        folders = [path for path in paths if path.endswith("/")]
        for path in sorted(folders, key=lambda path: -path.count("/")):
            with suppress(OSError):  # it is not empty, or a link
                (self.folder / path).rmdir()

    def start(self, paths: Iterable[str]) -> None:
        """Begin to write. paths: of dlcv's files and folders that are there.

        Raises:
            OutputError: the list cannot be written.
        """
        for path in self.state.glob("*.partial"):  # of a run that was killed
            path.unlink()
        paths = sorted(path for path in paths if self._is_there(path))
        text = "".join(map(line_from_record, ({"path": path} for path in paths)))
        path = self.state / "files"
        write_atomically(path, lambda f: f.write((json_text(_HEADER) + "\n" + text).encode()))
        self._list = AppendFile(path)
        self._own = {path for path in paths if "/" not in path}

    def add(self, folder: str, name: str, *, suffix: str, write: Write) -> str:
        """Write a new file that is made from an image's name, and return its path in the results folder.

        No two names, and no two runs, get the same path.

        Raises:
            OutputError: it cannot be written, or something that is not dlcv's has its name.
        """
        path = self._reserved(folder, name, suffix=suffix)
        try:
            self._write(path, write)
        finally:
            with self._mutex:
                self._under_way.discard(self._key(path))
        return path

    def write(self, name: str, write: Write) -> None:
        """Write a file that the folder holds once, such as `run.json`; one of dlcv's is replaced whole.

        Raises:
            OutputError: it cannot be written, or something that is not dlcv's has its name.
        """
        self._write(name, write, replace=name in self._own)
        self._own.add(name)

    def append_to(self, name: str) -> AppendFile:
        """Open a file that the folder holds once, and that grows, such as `results.jsonl`.

        Raises:
            OutputError: it cannot be opened, or something that is not dlcv's has its name.
        """
        path = self.folder / name
        if name in self._own:
            return AppendFile(path)
        if os.path.lexists(path):
            raise _in_the_way(path)
        self._note({"path": name})
        self._own.add(name)
        return AppendFile(path, new=True)

    def close(self) -> None:
        """Unlock the folder."""
        if self._list is not None:
            self._list.close()
        self._lock.close()

    def _reserved(self, folder: str, name: str, *, suffix: str) -> str:
        """Return a path that no other file has, and keep it from other threads until it is written."""
        with self._mutex:
            for attempt in itertools.count():
                path = f"{folder}/{path_from_name(name, suffix, attempt=attempt)}"
                key = self._key(path)
                if key in self._under_way:
                    continue
                if not os.path.lexists(self.folder / path):
                    self._under_way.add(key)
                    return path
                if self._listed is None:
                    self._listed = {self._key(path) for path in self.listed() or ()}
                if key not in self._listed:
                    raise _in_the_way(self.folder / path)
        raise AssertionError("counting never ends")

    def _write(self, path: str, write: Write, *, replace: bool = False) -> None:
        target = self.folder / path
        temporary = self.state / f"{next(self._numbers)}.partial"
        try:
            try:
                with temporary.open("xb") as file:
                    write(file)
                self._make_parents(path)
                self._note({"path": path})
                if replace:
                    temporary.replace(target)
                else:
                    self._move_to_new(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as e:
            raise output_error(target, e) from e

    def _move_to_new(self, temporary: Path, path: str) -> None:
        try:
            move_to_new(temporary, self.folder / path)
        except FileExistsError as e:
            self._note({"not": path})
            raise _in_the_way(self.folder / path) from e

    def _make_parents(self, path: str) -> None:
        """Make the folders of a file; links to folders elsewhere are not followed."""
        end = path.rfind("/") + 1
        if not end or path[:end] in self._folders:
            return
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            folder = f"{parent}/"
            if folder in self._folders:
                continue
            target = self.folder / parent
            try:
                target.mkdir()
            except FileExistsError as e:
                if target.is_symlink() or not target.is_dir():
                    raise _in_the_way(target) from e
            else:
                self._note({"path": folder})
            self._folders.add(folder)

    def _note(self, entry: dict[str, str]) -> None:
        assert self._list is not None  # `start` was called
        with self._mutex:
            self._list.append(line_from_record(entry).encode())
            if self._listed is not None and "path" in entry:
                self._listed.add(self._key(entry["path"]))

    def _key(self, path: str) -> str:
        """Return what two paths have in common that are one file here."""
        if not self._ignores_case:
            return path
        return unicodedata.normalize("NFC", path.casefold())

    def _is_there(self, path: str) -> bool:
        return os.path.lexists(self.folder / path)


def _paths_in(lines: Iterable[str]) -> set[str]:
    """Return the paths in a list of files.

    Raises:
        ValueError, KeyError, TypeError: it is not such a list.
    """
    found: set[str] = set()
    for number, line in enumerate(lines):
        entry = json.loads(line)
        if number == 0:
            if entry != _HEADER:
                raise ValueError("the first line is another")
        elif "not" in entry:
            found.discard(entry["not"])
        elif stays_inside(entry["path"]):
            found.add(entry["path"])
    return found


def _in_the_way(path: Path) -> OutputError:
    return OutputError(
        f"{path} is in the way: dlcv writes there, but never over what it did not write; move it away, or "
        "choose another --out"
    )
