"""A source of an export: a model in evaluation mode, with everything that a bundle says about it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dlcv.runtime.bundle.schema import ClassInfo, Metric, Preprocessing, Task
from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The user's options for a model that does not define them itself.

    weights: file with a state dict, alone or in a checkpoint (`.safetensors`, `.pth`, `.ckpt`). weights_key: of the one
    that is wanted, where it holds several. random: export random weights, on purpose. classes: file with one class
    name per line. size: (height, width) of the graph's input in pixels, instead of the model's own. task, mean, std
    (by channel, in units of 0..1): of a network that does not say them. settings: arguments of the function that
    builds it, as text. on_note: told what was taken of a weights file, in a sentence.
    """

    weights: Path | None = None
    weights_key: str | None = None
    random: bool = False
    classes: Path | None = None
    size: tuple[int, int] | None = None
    task: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    on_note: Callable[[str], object] = lambda _: None

    def __post_init__(self) -> None:
        if self.weights_key is not None and self.weights is None:
            raise InputError("--weights-key names a part of --weights; give that too")
        if self.weights is not None and self.random:
            raise InputError("--weights and --random contradict each other; give one of them")

    @property
    def command_line(self) -> str:
        """The options as typed on the command line, file names without folders. Starts with a space."""
        text = f" --weights {self.weights.name}" if self.weights else ""
        text += f" --weights-key {self.weights_key}" if self.weights_key else ""
        text += " --random" if self.random else ""
        text += f" --classes {self.classes.name}" if self.classes else ""
        text += f" --task {self.task}" if self.task else ""
        for name, values in (("mean", self.mean), ("std", self.std)):
            text += f" --{name} {','.join(map(str, values))}" if values else ""
        text += "".join(f" --set {name}={value}" for name, value in self.settings.items())
        return text + (f" --size {self.size[0]}x{self.size[1]}" if self.size else "")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a bundle says about its model, in plain English, for the manifest and the model card.

    origin: where the weights come from. data: what they were trained on. remake: the commands that make the
    bundle again, without `-o OUT`. files: other files of the bundle by name, such as a captioner's tokenizer.
    """

    name: str
    task: Task
    classes: tuple[ClassInfo, ...]
    preprocessing: Preprocessing
    description: str
    licence: str
    origin: str
    data: str
    remake: tuple[str, ...]
    limits: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    recipe: dict[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportSource(ModelFacts):
    """A model to export.

    model: takes normalised float32 (B, 3, H, W). A classifier gives logits (B, classes), a segmenter
    `{"out": logits}` or logits (B, classes, H, W), an embedder embeddings (B, D). mean, std: by channel, in
    units of 0..1. distance: of a few-shot network; takes embeddings (B, D) and prototypes (classes, D) and gives
    scores (B, classes).
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    distance: nn.Module | None = None


def with_size(preprocessing: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    """Return a preprocessing with another (height, width). None changes nothing.

    Raises:
        InputError: the size does not fit.
    """
    try:
        return msgspec.structs.replace(preprocessing, size=size or preprocessing.size)
    except ValueError as e:
        raise InputError(f"--size does not fit: {e}") from e


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Read class names from a file with one per line, or from a CSV file's column `name`. Empty lines are skipped.

    Raises:
        InputError: the file cannot be read, or holds no name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read class names from {path}: {e}") from e
    if path.suffix.lower() == ".csv":
        lines = _column_of_names(lines, path)
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path} holds no class names; write one a line")
    return tuple(ClassInfo(name=name) for name in names)


def _column_of_names(lines: list[str], path: Path) -> list[str]:
    rows = list(csv.DictReader(lines))
    if not rows or "name" not in rows[0]:
        raise InputError(
            f"{path} has no column 'name' in its first line; name the column of the classes so"
        )
    return [row["name"] or "" for row in rows]
