"""What a person says about a run, beside the folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.settings import Task


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to train. None: what fits the network and the images.

    network: by name, as in a recipe. settings: options of its builder. size: (height, width) of images in pixels.
    weights: a file, or a run, to start from, without its head. weights_key: which state dict in it. pretrained:
    download the published weights instead. classes: file with one class name a line.
    """

    network: str
    task: Task
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    epochs: int | None = None
    batch: int | None = None
    seed: int | None = None
    weights: str | None = None
    weights_key: str | None = None
    pretrained: bool = False
    classes: Path | None = None

    def __post_init__(self) -> None:
        if self.weights and self.pretrained:
            raise InputError("--weights and --pretrained are two starts; give one")
        if self.weights_key and not self.weights:
            raise InputError("--weights-key names a part of --weights; give that too")
        if self.task == "classify" and self.size and self.size[0] != self.size[1]:
            raise InputError(
                f"a classifier is trained on squares; give one side twice, such as --size {self.size[0]}x{self.size[0]}"
            )


def class_names(folder: Path, options: RunOptions) -> tuple[str, ...] | None:
    """Return the class names that a person gives: in a file, or in `classes.txt` in the folder; None: neither.

    Raises:
        RecipeError: the file cannot be read, or names fewer than two classes, or one twice.
    """
    path = options.classes or folder / "classes.txt"
    if options.classes is None and not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"cannot read class names from {path}: {e}") from e
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) < 2 or len(set(names)) != len(names):
        raise RecipeError(
            f"{path} must hold two or more different class names, one a line, not {list(names)}"
        )
    return names
