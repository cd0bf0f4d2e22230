"""Labelled images without PyTorch: class folders, a CSV, or images with masks; in folders or ZIP files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image

from dlcv.runtime.errors import InputError
from dlcv.runtime.images import SUFFIXES
from dlcv.runtime.manifest import Task

IGNORED = 255  # in masks: a pixel that does not count

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Readers: TypeAlias = dict[str, Callable[[], bytes]]  # by path inside the data, with "/"

_FILE_HEADERS = ("file", "filename", "path", "image")
_LABEL_HEADERS = ("label", "class", "index", "class_index", "imagenet_index", "category", "name")


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image file with its class index (classify) or the file of its mask (segment)."""

    name: str
    read: Callable[[], bytes]
    label: int | None = None
    read_mask: Callable[[], bytes] | None = None


def labelled_images(path: Path, *, task: Task, classes: Sequence[str]) -> list[LabelledImage]:
    """Return the labelled images in a folder, a ZIP file, or beside a CSV file, in a fixed order.

    For `classify`: a CSV with a file column (`file`, `filename`, `path` or `image`) and a label column
    (`label`, `class`, `index`, `name` or the like), or one folder a class. A label is a class name or
    index. For `segment`: `images/NAME.jpg` with masks `labels/NAME.png`. ZIP files inside the folder
    are read in place.

    Raises:
        InputError: there is no such data, or it does not fit the classes; the message names the file.
    """
    files = _files(path)
    if task == "segment":
        items = _with_masks(files, path)
    elif task == "classify":
        table = _table(files, path)
        items = (
            _in_folders(files, path, classes) if table is None else _listed(table, files, classes)
        )
    else:
        raise InputError(f"labelled images are for tasks classify and segment, not {task!r}")
    return items


def mask_from_bytes(data: bytes, *, name: str, classes: int) -> Mask:
    """Return class indices, uint8 (H, W); 255 where the file has no class: any index from `classes` on.

    Raises:
        InputError: it is not an image of one 8-bit channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "TIFF", "BMP")) as file:
            mask = np.array(file)
    except (OSError, ValueError, SyntaxError) as e:
        raise InputError(f"mask {name} is not a readable image: {e}") from e
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise InputError(
            f"mask {name} is {mask.dtype} {mask.shape}; it must have one 8-bit channel of class indices"
        )
    return np.where(mask < classes, mask, np.uint8(IGNORED))


def _files(path: Path) -> Readers:
    if not path.exists():
        raise InputError(f"no labelled data at {path}; give a folder, a ZIP or a CSV file")
    if path.suffix.lower() == ".zip":
        return _members(path)
    folder = path if path.is_dir() else path.parent
    found: Readers = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        if file.suffix.lower() == ".zip":
            found |= {f"{file.stem}/{name}": read for name, read in _members(file).items()}
        else:
            found[file.relative_to(folder).as_posix()] = file.read_bytes
    if path.suffix.lower() == ".csv":
        other = {name for name in found if name.endswith(".csv") and name != path.name}
        return {name: read for name, read in found.items() if name not in other}
    return found


def _members(path: Path) -> Readers:
    try:
        archive = ZipFile(path)
    except (BadZipFile, OSError) as e:
        raise InputError(f"{path} is not a readable ZIP file: {e}") from e

    def reader(name: str) -> Callable[[], bytes]:
        return lambda: archive.read(name)

    return {name: reader(name) for name in sorted(archive.namelist()) if not name.endswith("/")}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _with_masks(files: Readers, path: Path) -> list[LabelledImage]:
    images = dict(_of_folder(files, "images"))
    masks = dict(_of_folder(files, "labels"))
    if not images:
        raise InputError(f"{path} holds no images/NAME.jpg with masks labels/NAME.png")
    if lonely := sorted(images.keys() - masks.keys()):
        raise InputError(
            f"{path}: {images[lonely[0]]} has no mask labels/{Path(lonely[0]).name}.png"
        )
    return [
        LabelledImage(name=images[key], read=files[images[key]], read_mask=files[masks[key]])
        for key in sorted(images)
    ]


def _of_folder(files: Readers, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the images in folders of a name: path without that folder and suffix, and whole path."""
    for name in files:
        member = PurePosixPath(name)
        if member.parent.name == folder and _is_image(name):
            yield (member.parent.parent / member.stem).as_posix(), name


def _table(files: Readers, path: Path) -> tuple[str, list[dict[str, str]]] | None:
    """Return the name and rows of the one CSV that lists files, or None."""
    for name, read in files.items():
        if not name.lower().endswith(".csv"):
            continue
        try:
            rows = list(csv.DictReader(io.StringIO(read().decode("utf-8-sig"))))
        except (UnicodeDecodeError, csv.Error) as e:
            raise InputError(f"{name} is not a CSV file in UTF-8: {e}") from e
        if rows and _column(rows[0], _FILE_HEADERS):
            return name, rows
    if path.suffix.lower() == ".csv":
        raise InputError(
            f"{path} has no rows with a column {', '.join(_FILE_HEADERS)} in its first line"
        )
    return None


def _column(row: Mapping[str, str], names: Sequence[str]) -> str | None:
    headers = {header.strip().lower(): header for header in row if header}
    return next((headers[name] for name in names if name in headers), None)


def _listed(
    table: tuple[str, list[dict[str, str]]], files: Readers, classes: Sequence[str]
) -> list[LabelledImage]:
    name, rows = table
    file_column, label_column = _column(rows[0], _FILE_HEADERS), _column(rows[0], _LABEL_HEADERS)
    if file_column is None or label_column is None:
        raise InputError(f"{name} has no label column; name it one of {', '.join(_LABEL_HEADERS)}")
    by_last_part = {PurePosixPath(file).name: file for file in files}
    found = []
    for number, row in enumerate(rows, start=2):
        listed = row[file_column] or ""
        file = listed if listed in files else by_last_part.get(PurePosixPath(listed).name)
        if file is None:
            raise InputError(f"{name} line {number}: there is no file {listed!r}")
        label = _class_index(row[label_column] or "", classes, where=f"{name} line {number}")
        found.append(LabelledImage(name=file, read=files[file], label=label))
    return found


def _in_folders(files: Readers, path: Path, classes: Sequence[str]) -> list[LabelledImage]:
    images = [name for name in files if _is_image(name)]
    if not images:
        raise InputError(
            f"{path} holds neither folders of images by class nor a CSV that lists files"
        )
    return [
        LabelledImage(
            name=name,
            read=files[name],
            label=_class_index(PurePosixPath(name).parent.name, classes, where=name),
        )
        for name in images
    ]


def _class_index(text: str, classes: Sequence[str], *, where: str) -> int:
    if text in classes:
        return classes.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise InputError(
        f"{where}: {text!r} is neither one of the {len(classes)} class names ({classes[0]}, …) "
        "nor the index of one"
    )
