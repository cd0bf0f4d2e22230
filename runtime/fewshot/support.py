"""Lists support images by class: one folder per class, in a folder or an archive, or images by class name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluate.labelled import LabelledImage
from dlcv.runtime.images import SUFFIXES, Source
from dlcv.runtime.images.archives import files_in
from dlcv.runtime.results import name_of

Support: TypeAlias = "str | Path | Mapping[str, Iterable[Source]]"
SupportImages: TypeAlias = dict[str, list[LabelledImage]]


def support_images(support: Support, *, within: Collection[str] = ()) -> SupportImages:
    """Return the images of each class, not yet read. Classes from a folder are sorted by path.

    support: a folder, a ZIP or a tar archive with one folder per class, at any depth; or images by class name.
    A class is named after its folder; where two folders have the same name, after their paths. within: only the
    classes in these folders of the data.

    Raises:
        InputError: there is no such data, an image lies in no class folder, or a class has no image.
    """
    if isinstance(support, (str, Path)):
        found = _in_folders(Path(support), within)
    else:
        found = {name: _named(name, sources) for name, sources in support.items()}
    for name, images in found.items():
        if not images:
            raise InputError(f"class {name!r} has no images; add one, or take the class out")
    return found


def class_files(files: Iterable[str]) -> dict[str, list[str]]:
    """Return the images of each folder that has any, by path (`""`: images in no folder). Folders are sorted."""
    found: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file)
        if path.suffix.lower() in SUFFIXES:
            parent = path.parent.as_posix()
            found.setdefault("" if parent == "." else parent, []).append(file)
    return dict(sorted(found.items()))


def lies_in(folder: str, parts: Iterable[str]) -> bool:
    """Return whether a folder is one of `parts`, or inside one."""
    return any(f"{folder}/".startswith(f"{part.rstrip('/')}/") for part in parts)


def _named(name: str, sources: Iterable[Source]) -> list[LabelledImage]:
    if isinstance(sources, (str, Path, bytes, np.ndarray, Image.Image)):
        raise InputError(f"class {name!r} must be a list of images, not one image")
    return [LabelledImage(name=name_of(s), read=partial(_as_it_is, s)) for s in sources]


def _as_it_is(source: Source) -> Source:
    return source


def _in_folders(path: Path, within: Collection[str]) -> SupportImages:
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path} is one image; support is a folder or ZIP with a folder a class")
    files = files_in(path)
    images = class_files(files)
    if not images:
        raise InputError(f"{path} holds no images; give one folder a class, with images in each")
    if lonely := images.get(""):
        raise InputError(f"{lonely[0]} in {path} lies in no class folder; give one folder a class")
    folders = sorted(images.keys() | _empty_folders(path, files))
    for part in within:
        if not any(lies_in(folder, (part,)) for folder in folders):
            raise InputError(f"{path} has no class folders in {part!r}")
    folders = [folder for folder in folders if not within or lies_in(folder, within)]
    return {
        name: [LabelledImage(name=file, read=files[file]) for file in images.get(folder, ())]
        for name, folder in zip(_names(folders), folders, strict=True)
    }


def _names(folders: list[str]) -> list[str]:
    """Return the class names: the folder's name, or its path if the name is not unique."""
    names = [PurePosixPath(folder).name for folder in folders]
    count = Counter(names)
    return [n if count[n] == 1 else folder for n, folder in zip(names, folders, strict=True)]


def _empty_folders(path: Path, files: Iterable[str]) -> set[str]:
    """Return the folders with neither images nor folders: classes that somebody forgot to fill."""
    if path.is_dir():
        folders = [folder for folder in path.rglob("*") if folder.is_dir()]
        leaves = [folder for folder in folders if not any(p.is_dir() for p in folder.iterdir())]
        return {folder.relative_to(path).as_posix() for folder in leaves}
    return {parent for f in files if (parent := PurePosixPath(f).parent.as_posix()) != "."}
