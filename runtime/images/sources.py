"""What a user names on a command line, expanded to images: files, folders, globs, lists, URLs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from dlcv.runtime.errors import InputError
from dlcv.runtime.images.decode import SUFFIXES
from dlcv.runtime.images.source import Refused


@dataclass(frozen=True, kw_only=True)
class NamedImage:
    """An image to read, and the name (a relative path without suffix) for files made from it."""

    path: str
    name: str


def expand_inputs(
    inputs: Iterable[str], *, listing: TextIO | None = None
) -> Iterator[NamedImage | Refused]:
    """Yield every image that `inputs` name, lazily, in their order; folders sorted and recursive.

    An input is a file, a folder, a glob pattern, a URL (fsspec), or `-`: one path a line from
    `listing`. An input that names nothing becomes one `Refused`. Names are made unique.
    """
    taken: Counter[str] = Counter()
    for item in inputs:
        lines = _lines(listing) if item == "-" else iter([item])
        for line in lines:
            for found in _expand(line):
                yield found if isinstance(found, Refused) else _unique(found, taken)


def _lines(listing: TextIO | None) -> Iterator[str]:
    if listing is None:
        raise InputError("'-' reads image paths from standard input, which is not available here")
    for line in listing:
        if path := line.rstrip("\r\n"):
            yield path


def _expand(text: str) -> Iterator[NamedImage | Refused]:
    if "://" in text:
        yield from _expand_url(text)
    elif Path(text).is_dir():
        yield from _expand_folder(text)
    elif glob.has_magic(text) and not os.path.lexists(text):
        matches = sorted(glob.iglob(text, recursive=True))
        files = [match for match in matches if not Path(match).is_dir()]
        for match in files:
            yield NamedImage(path=match, name=Path(match).stem)
        if not files:
            yield Refused(source=text, reason="no file matches this pattern")
    else:
        yield NamedImage(path=text, name=Path(text).stem or "image")


def _expand_folder(folder: str) -> Iterator[NamedImage | Refused]:
    empty = True
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.startswith(".") or Path(file).suffix.lower() not in SUFFIXES:
                continue
            empty = False
            path = Path(root, file)
            name = path.relative_to(folder).with_suffix("").as_posix()
            yield NamedImage(path=str(path), name=name)
    if empty:
        yield Refused(source=folder, reason="the folder holds no images")


def _expand_url(url: str) -> Iterator[NamedImage | Refused]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        yield Refused(source=url, reason="URLs need fsspec: pip install 'dlcv[remote]'")
        return
    try:
        paths = _list_url(*url_to_fs(url), pattern=glob.has_magic(url))
    except Exception as e:  # noqa: BLE001  # every filesystem behind fsspec raises its own
        yield Refused(source=url, reason=f"cannot list it ({' '.join(str(e).split())})")
        return
    for path in paths:
        yield NamedImage(path=path, name=PurePosixPath(path).stem)
    if not paths:
        yield Refused(source=url, reason="no image there")


def _list_url(filesystem: Any, path: str, *, pattern: bool) -> list[str]:
    if pattern:
        found = filesystem.glob(path)
    elif filesystem.isdir(path):
        found = [p for p in filesystem.find(path) if PurePosixPath(p).suffix.lower() in SUFFIXES]
    else:
        found = [path]
    return [str(filesystem.unstrip_protocol(p)) for p in sorted(found)]


def _unique(image: NamedImage, taken: Counter[str]) -> NamedImage:
    name = image.name
    taken[name] += 1
    while taken[name] > 1:
        candidate = f"{image.name}-{taken[name]}"
        if taken[candidate] == 0:
            taken[candidate] = 1
            return NamedImage(path=image.path, name=candidate)
        taken[name] += 1
    return image
