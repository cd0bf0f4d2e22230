"""A folder with one folder of images for each class, or with `train` and `val` that hold them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import RecipeError
from dlcv.runtime.evaluate.labelled import class_folders
from dlcv.train.data import part_of
from dlcv.train.folders.layout import SHARE, FolderData, held_out_note, image_names, splits_of

_LAYOUT = "FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg, or FOLDER/CLASS/*.jpg"
_OF_MASKS = {"images", "imgs", "masks", "labels", "annotations"}
_NAMED = 3


def classify_data(folder: Path, *, names: tuple[str, ...] | None) -> FolderData:
    """Look at a folder of images by class. names: of the classes in order, if they are given.

    Raises:
        RecipeError: the folder is of another layout, has one class only, or its splits or `names` do not fit.
    """
    splits = splits_of(folder)
    train = _images_by_class(folder / splits.train)
    validation = _images_by_class(folder / splits.validation) if splits.validation else Counter()
    classes = _classes(train, names=names, where=folder / splits.train)
    if unknown := sorted(validation.keys() - train.keys()):
        raise RecipeError(
            f"class {unknown[0]} has images in {folder / str(splits.validation)} and none in {folder / splits.train}; "
            "add some there, or remove it"
        )
    notes = [
        f"class {name} has no image in {splits.validation}, so it is not scored"
        for name in classes
        if splits.validation and name not in validation
    ]
    held_out = 0
    if not splits.validation:
        items = class_folders(folder / splits.train, classes)
        held_out = len(part_of(items, SHARE, held_out=True))
        if not held_out:
            raise RecipeError(
                f"{folder / splits.train} has one image of each class, and some are needed for validation; add more"
            )
        notes.append(held_out_note(len(items) - held_out, held_out, each="each class"))
    return FolderData(
        data={"name": "folders", **splits.settings()},
        classes=tuple(ClassInfo(name=name) for name in classes),
        train_images=train.total() - held_out,
        notes=tuple(notes),
    )


def _images_by_class(path: Path) -> Counter[str]:
    """Return how many images the folder of each class holds.

    Raises:
        RecipeError: images lie elsewhere, or a folder has none.
    """
    images = image_names(path)
    if not images:
        raise RecipeError(f"{path} holds no images; expected {_LAYOUT}")
    for image in images:
        if len(image.parts) == 1:
            raise RecipeError(
                f"{path / image} lies in no folder of a class; put it into {path}/CLASS (expected {_LAYOUT})"
            )
        if len(image.parts) > 2:
            raise RecipeError(
                f"{path / image} lies too deep; images lie right in the folder of their class (expected {_LAYOUT})"
            )
    found = Counter(image.parts[0] for image in images)
    folders = [p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if empty := sorted(set(folders) - found.keys()):
        raise RecipeError(
            f"{path / empty[0]} holds no images; put those of a class there, or delete it"
        )
    return found


def _classes(train: Counter[str], *, names: tuple[str, ...] | None, where: Path) -> tuple[str, ...]:
    if len(train) < 2:
        raise RecipeError(
            f"{where} has one class only, {next(iter(train))}; a classifier needs a folder for each of two or more"
        )
    if train.keys() <= _OF_MASKS:
        raise RecipeError(
            f"{where} holds {' and '.join(sorted(train))}, which is the layout of masks; give --task segment"
        )
    if names is None:
        return tuple(sorted(train))
    if odd := sorted(train.keys() ^ set(names)):
        some = ", ".join(odd[:_NAMED])
        raise RecipeError(
            f"the class names are not those of the folders in {where}: {some} {'is' if len(odd) == 1 else 'are'} in one"
            " of the two; give the folders' names"
        )
    return names
