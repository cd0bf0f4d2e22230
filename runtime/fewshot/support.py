"""Examples by class, for few-shot classification: one folder a class, in a folder or an archive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from dlcv.runtime.archives import files_in
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import SUFFIXES, Source
from dlcv.runtime.labelled import LabelledImage
from dlcv.runtime.results import name_of

Support: TypeAlias = "str | Path | Mapping[str, Iterable[Source]]"
SupportImages: TypeAlias = dict[str, list[LabelledImage]]


def support_images(support: Support) -> SupportImages:
    """Return the images of each class, not yet read; classes of a folder are sorted by name.

    support: a folder, a ZIP or a tar archive with a folder a class; or images by class name.

    Raises:
        InputError: there is no such data, an image lies in no class folder, or a class has no image.
    """
    if isinstance(support, (str, Path)):
        found = _in_folders(Path(support))
    else:
        found = {name: _named(name, sources) for name, sources in support.items()}
    for name, images in found.items():
        if not images:
            raise InputError(f"class {name!r} has no images; add one, or take the class out")
    return found


def _named(name: str, sources: Iterable[Source]) -> list[LabelledImage]:
    if isinstance(sources, (str, Path, bytes, np.ndarray, Image.Image)):
        raise InputError(f"class {name!r} must be a list of images, not one image")
    return [LabelledImage(name=name_of(s), read=partial(_as_it_is, s)) for s in sources]


def _as_it_is(source: Source) -> Source:
    return source


def _in_folders(path: Path) -> SupportImages:
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path} is one image; support is a folder or ZIP with a folder a class")
    files: dict[str, Any] = files_in(path)
    images = [PurePosixPath(file) for file in files if _is_image(file)]
    if not images:
        raise InputError(f"{path} holds no images; give one folder a class, with images in each")
    found: SupportImages = {name: [] for name in _folders(path, files)}
    for image in images:
        if image.parent.name == "":
            raise InputError(f"{image} in {path} lies in no class folder; give one folder a class")
        name = f"{path.name}/{image}"
        found.setdefault(image.parent.name, []).append(
            LabelledImage(name=name, read=files[str(image)])
        )
    return dict(sorted(found.items()))


def _folders(path: Path, files: Iterable[str]) -> set[str]:
    """Return the names of folders without folders inside: also those that hold no image."""
    if not path.is_dir():
        return {PurePosixPath(f).parent.name for f in files if PurePosixPath(f).parent.name}
    folders = [folder for folder in path.rglob("*") if folder.is_dir()]
    return {folder.name for folder in folders if not any(p.is_dir() for p in folder.iterdir())}


def _is_image(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in SUFFIXES
