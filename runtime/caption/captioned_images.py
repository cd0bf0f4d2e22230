"""Reads images with captions: a JSON file `{"image.jpg": ["a caption", ...]}` beside the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from dlcv.runtime.errors import InputError
from dlcv.runtime.images import SUFFIXES
from dlcv.runtime.images.archives import Readers, files_within


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """An image with one or more reference captions. read: returns the bytes of its file."""

    name: str
    read: Callable[[], bytes]
    captions: tuple[str, ...]


def captioned_images(path: Path) -> list[CaptionedImage]:
    """Return the images that a caption file names, in its order.

    path: the JSON file, or a folder or archive with just one. Images lie in its folder, at any depth, also
    in ZIP and tar archives; a name may be a path or its last part.

    Raises:
        InputError: there is no such file, it is malformed, an image is missing, or one has an empty caption.
    """
    inside = path.suffix.lower() != ".json"
    if not inside and not path.is_file():
        raise InputError(f"no caption file {path}")
    files = files_within(path if inside else path.parent)
    name = _only_json(files, path) if inside else path.name
    captions = _captions(files[name](), name=name)
    images = {file: file for file in files if PurePosixPath(file).suffix.lower() in SUFFIXES}
    by_last_part = {PurePosixPath(file).name: file for file in images} | images
    missing = [image for image in captions if image not in by_last_part]
    if missing:
        raise InputError(
            f"{name}: {len(missing):,} of {len(captions):,} images have no file beside it, such as {missing[0]!r}; "
            "add them or take them out"
        )
    return [
        CaptionedImage(name=image, read=files[by_last_part[image]], captions=texts)
        for image, texts in captions.items()
    ]


def _only_json(files: Readers, path: Path) -> str:
    names = [name for name in files if name.lower().endswith(".json")]
    if len(names) != 1:
        raise InputError(f"{path} holds {len(names)} caption files (.json); name one of them")
    return names[0]


def _captions(data: bytes, *, name: str) -> dict[str, tuple[str, ...]]:
    try:
        captions = msgspec.json.decode(data, type=dict[str, tuple[str, ...]])
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise InputError(
            f'{name} is not a caption file {{"image.jpg": ["a caption", ...]}}: {e}'
        ) from e
    if not captions:
        raise InputError(f"{name} names no image")
    for image, texts in captions.items():
        if not texts or not all(any(c.isalnum() for c in text) for text in texts):
            what = "has no caption" if not texts else "has a caption without a word"
            raise InputError(f"{name}: {image} {what}; give it one or take it out")
    return captions
