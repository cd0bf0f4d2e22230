"""What a user names on a command line, expanded to images: files, folders, globs, lists, URLs."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from dlcv.runtime.errors import InputError
from dlcv.runtime.images.file_formats import SUFFIXES
from dlcv.runtime.images.folders import walked
from dlcv.runtime.images.source import Refused

_HIDDEN = "hidden"
_SPECIAL = "special"
_ANY_DEPTH = re.compile(r"(^|[/\\])\*\*([/\\]|$)" if os.sep == "\\" else r"(^|/)\*\*(/|$)")


@dataclass(frozen=True, kw_only=True)
class NamedImage:
    """An image to read, and the name (a relative path without suffix) for files made from it."""

    path: str
    name: str


def expand_inputs(
    inputs: Iterable[str],
    *,
    listing: TextIO | None = None,
    all_files: bool = False,
    left_out: Counter[str] | None = None,
) -> Iterator[NamedImage | Refused]:
    """Yield every image that `inputs` name, lazily, in their order; folders sorted and recursive.

    An input is a file, a folder, a glob pattern, a URL (fsspec), or `-`: one path a line from
    `listing`. An input that names nothing becomes one `Refused`. Names are made unique. Links to folders are
    followed; a folder is read once, however many lead to it.

    all_files: take every file of a folder that is not hidden, whatever its suffix.
    left_out: gets a count of the other files in folders, by suffix, while they are passed.
    """
    taken: Counter[str] = Counter()
    choice = _Choice(all_files=all_files, left_out=Counter() if left_out is None else left_out)
    for item in inputs:
        lines = _lines(listing) if item == "-" else iter([item])
        for line in lines:
            for found in _expand(line, choice):
                yield found if isinstance(found, Refused) else _unique(found, taken)


def left_out_line(left_out: Counter[str]) -> str:
    """Return what `expand_inputs` left out as a line, the most frequent first: `left out: 3 files (2 .svg, 1 .txt)`."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    total = left_out.total()
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
    return f"left out: {total:,} {'file' if total == 1 else 'files'} ({counts})"


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Which files of a folder are taken; it counts the others."""

    all_files: bool
    left_out: Counter[str]

    def takes(self, name: str) -> bool:
        suffix = PurePosixPath(name).suffix.lower()
        if not _is_shown(name):
            self.left_out[_HIDDEN] += 1
        elif self.all_files or suffix in SUFFIXES:
            return True
        else:
            self.left_out[suffix or "(no suffix)"] += 1
        return False


def _lines(listing: TextIO | None) -> Iterator[str]:
    if listing is None:
        raise InputError("'-' reads image paths from standard input, which is not available here")
    for line in listing:
        if path := line.rstrip("\r\n"):
            yield path


def _expand(text: str, choice: _Choice) -> Iterator[NamedImage | Refused]:
    if "://" in text:
        yield from _expand_url(text, choice)
    elif Path(text).is_dir():
        yield from _expand_folder(text, choice)
    elif glob.has_magic(text) and not os.path.lexists(text):
        matches = sorted(set(_matches(_escaped(text, exists=os.path.lexists))))
        files = [match for match in matches if not Path(match).is_dir()]
        for match in files:
            yield NamedImage(path=match, name=Path(match).stem)
        if not files:
            yield Refused(source=text, reason="no file matches this pattern")
    else:
        yield NamedImage(path=text, name=Path(text).stem or "image")


def _escaped(pattern: str, *, exists: Callable[[str], bool]) -> str:
    """Return the pattern in which the longest leading path that exists stands for itself: a folder called `a[1]`."""
    leading = os.path.dirname(pattern)  # noqa: PTH120  # a Path would change the pattern
    while glob.has_magic(leading) and not exists(leading):
        leading = os.path.dirname(leading)  # noqa: PTH120
    return glob.escape(leading) + pattern[len(leading) :]


def _matches(pattern: str) -> Iterator[str]:
    """Yield what a pattern matches, some of it perhaps twice; under `**` Python's own glob goes round in loops of links."""
    if (deep := _ANY_DEPTH.search(pattern)) is None:
        yield from glob.iglob(pattern)
        return
    before, after = pattern[: deep.end(1)], pattern[deep.end() :]
    for base in glob.iglob(before) if before else [""]:
        for folder, files in walked(Path(base), enters=_is_shown):
            inside = folder.relative_to(base).as_posix()
            start = base if inside == "." else f"{base}{inside}/"
            if after:
                yield from _matches(glob.escape(start) + after)
            else:
                yield from (start + name for name in files if _is_shown(name))


def _is_shown(name: str) -> bool:
    return not name.startswith(".")


def _expand_folder(folder: str, choice: _Choice) -> Iterator[NamedImage | Refused]:
    closed: list[OSError] = []
    empty = True
    for root, files in walked(Path(folder), enters=_is_shown, on_error=closed.append):
        for file in files:
            path = root / file
            if choice.all_files and not path.is_file():
                choice.left_out[_SPECIAL] += 1  # opening a pipe would wait for somebody to write
            elif choice.takes(file):
                empty = False
                name = path.relative_to(folder).with_suffix("").as_posix()
                yield NamedImage(path=str(path), name=name)
    for error in closed:
        yield Refused(source=str(error.filename), reason=f"cannot list it ({error.strerror})")
    if empty and not closed:
        yield Refused(source=folder, reason="the folder holds no images")


def _expand_url(url: str, choice: _Choice) -> Iterator[NamedImage | Refused]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        yield Refused(source=url, reason="URLs need fsspec: pip install 'dlcv[remote]'")
        return
    try:
        filesystem, path = url_to_fs(url)
        paths = _list_url(filesystem, path, choice)
    except Exception as e:  # noqa: BLE001  # every filesystem behind fsspec raises its own
        yield Refused(source=url, reason=f"cannot list it ({' '.join(str(e).split())})")
        return
    for found in paths:
        yield NamedImage(path=found, name=PurePosixPath(found).stem)
    if not paths:
        yield Refused(source=url, reason="no image there")


def _list_url(filesystem: Any, path: str, choice: _Choice) -> list[str]:
    if glob.has_magic(path) and not filesystem.exists(path):  # an address may hold a "?"
        found = filesystem.glob(_escaped(path, exists=filesystem.exists))
    elif filesystem.isdir(path):
        found = [p for p in filesystem.find(path) if _is_taken(p, path, choice)]
    else:
        found = [path]
    return [str(filesystem.unstrip_protocol(p)) for p in sorted(found)]


def _is_taken(path: str, folder: str, choice: _Choice) -> bool:
    *folders, name = PurePosixPath(path.removeprefix(folder).lstrip("/")).parts
    return all(map(_is_shown, folders)) and choice.takes(name)


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
