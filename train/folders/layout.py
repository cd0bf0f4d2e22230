"""What is found in a folder of images, and where its splits are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dlcv.runtime.errors import RecipeError
from dlcv.runtime.images import SUFFIXES
from dlcv.runtime.images.archives import files_within

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import ClassInfo

SHARE = 0.2  # of the images that are held out where there is no split for validation
_TRAIN = ("train", "training")
_VALIDATION = ("val", "valid", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class FolderData:
    """A folder's images as a recipe names them.

    data: settings of the recipe's `data`. train_images: how many are trained on. size: the (height, width) that most
    images have, where it was looked at. notes: what was decided, as sentences.
    """

    data: dict[str, Any]
    classes: tuple[ClassInfo, ...]
    train_images: int
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Paths in the folder: where training images are, "." for the folder itself, and those for validation, if apart."""

    train: str
    validation: str | None

    def settings(self) -> dict[str, Any]:
        """Return the splits as settings of a recipe's `data`."""
        where = {"root": ".", "train": self.train}
        return (
            {**where, "test": self.validation}
            if self.validation
            else {**where, "validation_share": SHARE}
        )


def splits_of(folder: Path) -> Splits:
    """Return where a folder has its splits.

    Raises:
        RecipeError: there is no such folder, or it has a split for validation and none for training.
    """
    if not folder.is_dir():
        raise RecipeError(f"no folder {folder}; give the folder with your images to --data")
    children = {child.name.lower(): child.name for child in folder.iterdir() if child.is_dir()}
    train = next((children[name] for name in _TRAIN if name in children), None)
    validation = next((children[name] for name in _VALIDATION if name in children), None)
    if validation and not train:
        raise RecipeError(
            f"{folder} has {validation} and no train; name the folder with the training images train"
        )
    return Splits(train=train or ".", validation=validation)


def image_names(path: Path) -> list[PurePosixPath]:
    """Return the paths of the images in a folder, sorted; archives in it are looked into."""
    names = map(PurePosixPath, files_within(path))
    return [name for name in names if name.suffix.lower() in SUFFIXES]


def held_out_note(train: int, held_out: int, *, each: str) -> str:
    """Return the sentence that says what is held out where there is no split for validation."""
    return (
        f"no folder val: {held_out:,} of {train + held_out:,} images, {SHARE:.0%} of {each} and always the same, are for"
        " validation"
    )
