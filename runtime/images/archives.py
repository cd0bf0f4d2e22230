"""The files in a folder, a ZIP or a tar archive, by name, read where they lie: nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from zipfile import BadZipFile, ZipFile

from dlcv.runtime.errors import InputError
from dlcv.runtime.images.folders import walked

Readers: TypeAlias = dict[str, Callable[[], bytes]]  # by path inside the data, with "/"

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)


def files_in(path: Path) -> Readers:
    """Return what reads each file in a folder, a ZIP or a tar archive, sorted by name.

    Links to folders are followed; a folder is read once, however many lead to it.
    A compressed tar has no directory and cannot be read at random, so it is decompressed into memory.

    Raises:
        InputError: there is no such thing, or the archive is damaged.
    """
    if path.is_dir():
        files = (folder / name for folder, names in walked(path) for name in names)
        found = sorted(file for file in files if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes for file in found}
    if not path.exists():
        raise InputError(f"no data at {path}; give a folder, or a ZIP or tar archive")
    name = path.name.lower()
    if name.endswith(TAR_SUFFIXES):
        return _tar_members(path)
    if name.endswith(".zip"):
        return _zip_members(path)
    raise InputError(
        f"{path} is neither a folder nor an archive; archives end in {', '.join(ARCHIVE_SUFFIXES)}"
    )


def files_within(path: Path) -> Readers:
    """Return what `files_in` does; the members of a folder's archives stand behind `ARCHIVE/` in their place.

    Raises:
        InputError: as `files_in`.
    """
    if not path.is_dir():
        return files_in(path)
    found: Readers = {}
    for name, read in files_in(path).items():
        suffix = next((s for s in ARCHIVE_SUFFIXES if name.lower().endswith(s)), None)
        if suffix is None:
            found[name] = read
        else:
            inside = files_in(path / name)
            found |= {f"{name[: -len(suffix)]}/{member}": r for member, r in inside.items()}
    return found


def _zip_members(path: Path) -> Readers:
    try:
        archive = ZipFile(path)
    except (BadZipFile, OSError) as e:
        raise InputError(f"{path} is not a readable ZIP file: {e}") from e

    def reader(name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                return archive.read(name)
            except (BadZipFile, OSError, zlib.error, RuntimeError) as e:  # RuntimeError: encrypted
                raise InputError(f"{name} in {path} cannot be read: {e}") from e

        return read

    return {name: reader(name) for name in sorted(archive.namelist()) if not name.endswith("/")}


def _tar_members(path: Path) -> Readers:
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isreg()]
            if path.suffix.lower() == ".tar" and not any(member.issparse() for member in members):
                return {m.name: _span(path, m.offset_data, size=m.size) for m in _sorted(members)}
            return {m.name: _extracted(archive, m) for m in _sorted(members)}
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise InputError(f"{path} is not a readable tar archive: {e}") from e


def _sorted(members: list[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    return sorted(members, key=lambda member: member.name)


def _span(path: Path, start: int, *, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return read


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    file = archive.extractfile(member)
    data = file.read() if file else b""
    return lambda: data
