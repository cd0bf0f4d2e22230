"""Which files of a results folder are dlcv's: what `run.json` looks like, what pictures and maps say of themselves.

The folder's own list (`owned_files.py`) says what was written. This is the second opinion, before anything is
deleted, and all there is for a folder of a version that kept no list.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from dlcv.runtime.results.base import Record

RUN = "run.json"
ERRORS = "errors.jsonl"
FILE_FOLDERS = {"mask": "masks", "overlay": "overlays", "maps": "maps", "confidence": "confidence"}
OLD_PARTIAL_MATRIX = ".embeddings.f32"
"""Where a version without a list kept the embeddings of a run that was stopped."""

_HEAD_BYTES = 4096  # a PNG's text stands before its pixels
_PNG_MARK = re.compile(rb"Software\0{1,5}dlcv; ")  # in a tEXt or an iTXt chunk
_NPZ_MARK = "engine.npy"


def run_record(folder: Path) -> Record | None:
    """Return what the `run.json` of a results folder says; None if there is none, or it is not dlcv's."""
    path = folder / RUN
    if path.is_symlink() or not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        lines = record["options"]["lines"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if lines in ("jsonl", "csv") else None


def files_named(record: Record) -> Iterator[str]:
    """Yield the image's own files that a line names."""
    for key, folder in FILE_FOLDERS.items():
        path = record.get(key)
        if isinstance(path, str) and path.startswith(f"{folder}/") and stays_inside(path):
            yield path


def files_without_list(folder: Path, run: Record) -> set[str]:
    """Return dlcv's files in a folder of a version that kept no list: what the lines name, and what says dlcv itself.

    The second are those of images that were under way when the run was killed.
    """
    if "bundle_sha256" not in run:
        return set()
    options = run["options"]
    found = {RUN}
    for name in (f"results.{options['lines']}", ERRORS):
        if (named := _files_named_in(folder / name)) is not None:
            found |= {name, *named}
    if options.get("embeddings"):
        found |= {f"embeddings.{options['embeddings']}", OLD_PARTIAL_MATRIX}
    found |= {*_marked_files(folder)}
    files = {path for path in found if is_own_file(folder, path)}
    return files | {f"{parent}/" for path in files for parent in _parents(path)}


def is_own_file(folder: Path, path: str) -> bool:
    """Whether what lies at the relative path of a file of dlcv's can be that file, and no link leads there."""
    if any((folder / parent).is_symlink() for parent in _parents(path)):
        return False
    return _is_unchanged(folder / path) if "/" in path else _is_file(folder / path)


def stays_inside(path: str) -> bool:
    """Whether a relative path leads nowhere but below its folder, as long as there are no links."""
    return not path.startswith("/") and ".." not in path.split("/")


def _parents(path: str) -> list[PurePosixPath]:
    return [parent for parent in PurePosixPath(path).parents if parent.name]


def _is_unchanged(path: Path) -> bool:
    """Whether it is a file, no link, and pictures and maps say dlcv; an empty one can be what a power failure left."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        return not status.st_size or path.suffix not in (".png", ".npz") or _says_dlcv(path)
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _marked_files(folder: Path) -> Iterator[str]:
    for name in FILE_FOLDERS.values():
        if (folder / name).is_symlink():
            continue
        for root, _, files in os.walk(folder / name):
            for file in files:
                path = Path(root, file)
                if _is_file(path) and _says_dlcv(path):
                    yield path.relative_to(folder).as_posix()


def _says_dlcv(path: Path) -> bool:
    """Whether a picture or maps, whole or partial, say that dlcv wrote them; nothing else does."""
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                return _NPZ_MARK in archive.namelist()
        except zipfile.BadZipFile:
            return False
    if path.suffix not in (".png", ".partial"):
        return False
    with path.open("rb") as file:
        return _PNG_MARK.search(file.read(_HEAD_BYTES)) is not None


def _files_named_in(path: Path) -> set[str] | None:
    """Return the files that the readable lines of a file name; None if it is not dlcv's: it has lines, and none is."""
    if not _is_file(path):
        return None
    found: set[str] = set()
    is_empty, is_readable = True, False
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for record in _parsed(file, path.suffix):
            is_empty = False
            if isinstance(record, dict) and "image" in record:
                is_readable = True
                found |= set(files_named(record))
    return found if is_empty or is_readable else None


def _parsed(file: TextIO, suffix: str) -> Iterator[Any]:
    """Yield each line as a record; None for a line that cannot be read."""
    if suffix == ".csv":
        try:
            yield from csv.DictReader(file)
        except csv.Error:
            yield None
        return
    for line in file:
        try:
            yield json.loads(line)
        except ValueError:
            yield None
