"""Lists labelled images without PyTorch: class folders, file names, a CSV, contact sheets, or image and mask pairs.

Each can be read from a folder, a ZIP or a tar archive; archives inside a folder are read in place.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dlcv.runtime.bundle.schema import Task
from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluate.contact_sheets import has_sheets, tile_readers
from dlcv.runtime.images import SUFFIXES, Source
from dlcv.runtime.images.archives import Readers, files_within

PAIRS = ("images/{}.*", "labels/{}.*")

_FILE_HEADERS = ("file", "filename", "path", "image")
_LABEL_HEADERS = ("label", "class", "index", "class_index", "imagenet_index", "category", "name")
_LABEL_AND_NUMBER = re.compile(r"(\d+)_.+")


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image with its class index (classify) or the file of its mask (segment).

    read: returns the image file's bytes, or its pixels.
    """

    name: str
    read: Callable[[], Source]
    label: int | None = None
    mask: str = ""
    read_mask: Callable[[], bytes] | None = None


def labelled_images(
    path: Path, *, task: Task, classes: Sequence[str], patterns: tuple[str, str] = PAIRS
) -> list[LabelledImage]:
    """Return the labelled images in a folder, an archive, or beside a CSV file, in a fixed order.

    For `classify`, the layout is detected: `sheet_images` (the test split), `listed_images`, `labelled_names`
    or `class_folders`. For `segment`: `image_mask_pairs` with `patterns`.

    Raises:
        InputError: there is no such data, or it does not fit the classes; the message names the file.
    """
    if task == "segment":
        return image_mask_pairs(path, patterns)
    if task != "classify":
        raise InputError(f"labelled images are for tasks classify and segment, not {task!r}")
    if has_sheets(path, "test"):
        return sheet_images(path, "test", classes)
    files = _files(path)
    if _table(files, path) is not None:
        return _listed(files, path, classes)
    images = [PurePosixPath(name) for name in files if _is_image(name)]
    in_folders = all(image.parent.name in classes for image in images)
    if images and not in_folders and all(_LABEL_AND_NUMBER.fullmatch(i.stem) for i in images):
        return _named(files, path, classes)
    return _in_folders(files, path, classes)


def class_folders(path: Path, classes: Sequence[str]) -> list[LabelledImage]:
    """Return images from one folder per class, named after the class or its index.

    Raises:
        InputError: there is no such data, or a folder is of no class.
    """
    return _in_folders(_files(path), path, classes)


def labelled_names(path: Path, classes: Sequence[str]) -> list[LabelledImage]:
    """Return images named `LABEL_NUMBER.SUFFIX`, where LABEL is the index of a class.

    Raises:
        InputError: there is no such data, or a name is not of that form or of no class.
    """
    return _named(_files(path), path, classes)


def listed_images(path: Path, classes: Sequence[str]) -> list[LabelledImage]:
    """Return the images that a CSV lists. They are in the folder or archives that hold the CSV or lie beside it.

    The first line names a column of files (`file`, `filename`, `path` or `image`) and one of labels (`label`,
    `class`, `index`, `name` or the like). A label is a class's name or index.

    Raises:
        InputError: there is no such CSV, or one of its lines does not fit.
    """
    return _listed(_files(path), path, classes)


def sheet_images(folder: Path, split: str, classes: Sequence[str]) -> list[LabelledImage]:
    """Return the images of a split stored as contact sheets: see `dlcv.runtime.evaluate.contact_sheets`.

    Raises:
        InputError: the labels are missing or do not fit the classes.
    """
    tiles = tile_readers(folder, split, classes=len(classes))
    return [LabelledImage(name=name, read=read, label=label) for name, read, label in tiles]


def unlabelled_images(path: Path) -> list[LabelledImage]:
    """Return every image in a folder or archive, whatever its name.

    Raises:
        InputError: there is none.
    """
    files = _files(path)
    found = [LabelledImage(name=name, read=read) for name, read in files.items() if _is_image(name)]
    if not found:
        raise InputError(f"{path} holds no images")
    return found


def image_mask_pairs(path: Path, patterns: tuple[str, str] = PAIRS) -> list[LabelledImage]:
    """Return pairs of images and masks, matched by two patterns and sorted by name.

    `{}` in both patterns stands for the same name. A pattern is the end of a path; `*` stands for any image
    suffix, and what precedes the pattern must be equal for both.

    Raises:
        InputError: an image without a mask or the reverse, or nothing at all.
    """
    files = _files(path)
    images, masks = (_matching(files, pattern) for pattern in patterns)
    if not images:
        raise InputError(f"{path} holds no {_example(patterns[0])} with {_example(patterns[1])}")
    if lonely := min(images.keys() ^ masks.keys(), default=None):
        here, wanted, pattern = (
            (images[lonely], "mask", patterns[1])
            if lonely in images
            else (masks[lonely], "image", patterns[0])
        )
        missing = lonely[0] + _example(pattern, name=lonely[1])
        raise InputError(f"{path}: {here} has no {wanted} {missing}")
    return [
        LabelledImage(
            name=images[key], read=files[images[key]], mask=masks[key], read_mask=files[masks[key]]
        )
        for key in sorted(images)
    ]


def _files(path: Path) -> Readers:
    """Return the files in a folder or archive; for a CSV, those of its folder without other CSVs."""
    if path.suffix.lower() != ".csv":
        return files_within(path)
    if not path.is_file():
        raise InputError(f"no data at {path}; give a folder, an archive or a CSV file")
    found = files_within(path.parent)
    others = {name for name in found if name.lower().endswith(".csv") and name != path.name}
    return {name: read for name, read in found.items() if name not in others}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _matching(files: Readers, pattern: str) -> dict[tuple[str, str], str]:
    """Return the image files that match a pattern, by (folder before the pattern, text that stands for {})."""
    before, after = pattern.split("{}")
    end = r"\.[^./]+" if after == ".*" else re.escape(after)
    whole = re.compile(rf"((?:.*/)?){re.escape(before)}(.+){end}")
    matches = {name: whole.fullmatch(name) for name in files if _is_image(name)}
    return {(match[1], match[2]): name for name, match in matches.items() if match}


def _example(pattern: str, *, name: str = "NAME") -> str:
    return pattern.replace("{}", name).replace(".*", ".png")


def _table(files: Readers, path: Path) -> tuple[str, list[dict[str, str]]] | None:
    """Return the name and rows of the only CSV that lists files, or None."""
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


def _listed(files: Readers, path: Path, classes: Sequence[str]) -> list[LabelledImage]:
    table = _table(files, path)
    if table is None:
        raise InputError(f"{path} holds no CSV with a column {', '.join(_FILE_HEADERS)}")
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


def _named(files: Readers, path: Path, classes: Sequence[str]) -> list[LabelledImage]:
    found = []
    for name in filter(_is_image, files):
        match = _LABEL_AND_NUMBER.fullmatch(PurePosixPath(name).stem)
        if match is None:
            raise InputError(f"{path}: {name} is not named LABEL_NUMBER, such as 3_0017.png")
        label = int(match[1])
        if label >= len(classes):
            raise InputError(
                f"{path}: {name} has label {label}; there are {len(classes)} classes, 0..{len(classes) - 1}"
            )
        found.append(LabelledImage(name=name, read=files[name], label=label))
    if not found:
        raise InputError(f"{path} holds no images named LABEL_NUMBER, such as 3_0017.png")
    return found


def _class_index(text: str, classes: Sequence[str], *, where: str) -> int:
    if text in classes:
        return classes.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise InputError(
        f"{where}: {text!r} is neither one of the {len(classes)} class names ({classes[0]}, …) "
        "nor the index of one"
    )
