"""A source of an export: a model in evaluation mode, with everything that a bundle says about it."""

from __future__ import annotations

import ast
import csv
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from dlcv.export.sources.imagenet import imagenet_names
from dlcv.runtime.bundle.schema import (
    Activation,
    ClassInfo,
    Metric,
    Preprocessing,
    Resample,
    Resize,
    Task,
)
from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn


Color: TypeAlias = tuple[int, int, int]  # red, green, blue in 0..255

IMAGENET, VOC = "imagenet", "voc"  # in place of a file of class names
_VOC_FILE = Path(__file__).with_name("voc_classes.csv")
DEFAULT_SCALE = 1 / 255
DEFAULT_THRESHOLD = 0.5
_PREPROCESSING_FIELDS = ("resize", "resample", "crop_fraction", "pad", "pad_at")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images were prepared when a network was trained, where it cannot say that itself. None: its source's default.

    scale: what pixels in 0..255 are multiplied by first; 1/255 by default. mean, std: subtracted and divided by then, by
    channel in the network's order, or one number for all. channels: rgb, bgr (blue first) or grey. resize, resample,
    crop_fraction, pad, pad_at: see `Preprocessing`.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channels: Literal["rgb", "bgr", "grey"] | None = None
    resize: Resize | None = None
    resample: Resample | None = None
    crop_fraction: float | None = None
    pad: tuple[int, int, int] | None = None
    pad_at: Literal["center", "end"] | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are given, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def as_text(self) -> dict[str, str]:
        """Return the options that are given as typed on the command line, by name with dashes."""
        text = {}
        for name, value in self.given().items():
            numbers = value if isinstance(value, tuple) else (value,)
            words = [x if isinstance(x, str) else f"{x:g}" for x in numbers]
            text[f"--{name.replace('_', '-')}"] = ",".join(words)
        return text


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The user's options for a model that does not define them itself.

    weights: file with a state dict, alone or in a checkpoint (`.safetensors`, `.pth`, `.ckpt`). weights_key: of the one
    that is wanted, where it holds several. random: export random weights, on purpose. classes: file with one class
    name per line, see `read_classes`. size: (height, width) of the graph's input in pixels, instead of the model's own. activation: of the
    logits; None: the model's own, or softmax. threshold: with sigmoid, the probability from which a label, or the
    second of two classes of pixels, is given. task, images: of a network that does not say them. settings: arguments of
    the function that builds it, as text. on_note: told what was taken of a weights file, in a sentence.
    """

    weights: Path | None = None
    weights_key: str | None = None
    random: bool = False
    classes: Path | None = None
    size: tuple[int, int] | None = None
    activation: Activation | None = None
    threshold: float | None = None
    task: str | None = None
    images: ImageOptions = field(default_factory=ImageOptions)
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
        text = f" --weights {shlex.quote(self.weights.name)}" if self.weights else ""
        text += f" --weights-key {shlex.quote(self.weights_key)}" if self.weights_key else ""
        text += " --random" if self.random else ""
        text += f" --classes {shlex.quote(self.classes.name)}" if self.classes else ""
        text += f" --task {self.task}" if self.task else ""
        text += f" --activation {self.activation}" if self.activation else ""
        text += f" --threshold {self.threshold:g}" if self.threshold else ""
        text += "".join(f" {option} {value}" for option, value in self.images.as_text().items())
        text += "".join(f" --set {shlex.quote(f'{k}={v}')}" for k, v in self.settings.items())
        return text + (f" --size {self.size[0]}x{self.size[1]}" if self.size else "")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a bundle says about its model, in plain English, for the manifest and the model card.

    origin: where the weights come from. data: what they were trained on. remake: the commands that make the
    bundle again, without `-o OUT`. activation, threshold: see `Manifest`. files: other files of the bundle by name, such as a captioner's tokenizer.
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
    activation: Activation = "softmax"
    threshold: float | None = None
    limits: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    recipe: dict[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportSource(ModelFacts):
    """A model to export.

    model: takes normalised float32 (B, C, H, W). A classifier gives logits (B, classes), a segmenter
    `{"out": logits}` or logits (B, classes, H, W), with activation sigmoid (B, 1, H, W), an embedder embeddings (B, D).
    mean, std: by channel in the model's order, in units of 0..1. is_bgr: its channels are blue, green, red. distance: of a few-shot network; takes embeddings (B, D) and prototypes (classes, D) and gives
    scores (B, classes).
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bgr: bool = False
    distance: nn.Module | None = None


def by_channel(
    values: tuple[float, ...], *, channels: int, scale: float, name: str
) -> tuple[float, ...]:
    """Return a mean or standard deviation by channel in units of 0..1, given in those of pixels in 0..255 times scale.

    values: one a channel, or one for all.

    Raises:
        InputError: there are as many as neither.
    """
    if len(values) not in (1, channels):
        raise InputError(
            f"{name} takes one number, or {channels}, one for each channel, not {len(values)}"
        )
    repeated = values * channels if len(values) == 1 else values
    return tuple(value / (255 * scale) for value in repeated)


def prepared_images(
    preprocessing: Preprocessing,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    options: SourceOptions,
) -> dict[str, Any]:
    """Return a library's own preprocessing with what the user says otherwise, as fields of `ExportSource`.

    mean, std: the library's, in units of 0..1. Of a network with one channel, their averages are taken, with a note.

    Raises:
        InputError: an option does not fit.
    """
    images, is_grey = options.images, preprocessing.channels == 1
    if images.channels is not None and (images.channels == "grey") != is_grey:
        raise InputError(
            f"the network takes {'one channel' if is_grey else '3 channels'}, not those of --channels {images.channels}; build "
            "it for greyscale with --set in_chans=1, or leave --channels out"
        )
    own = {k: v for k, v in images.given().items() if k in _PREPROCESSING_FIELDS}
    if own.get("resize", "center_crop") != "center_crop":
        own.setdefault("crop_fraction", 1.0)
    try:
        changed = msgspec.structs.replace(with_size(preprocessing, options.size), **own)
    except ValueError as e:
        raise InputError(f"the image options do not fit: {e}") from e
    mean, std = _normalisation(mean, std, options=options, is_grey=is_grey)
    is_bgr = images.channels == "bgr"
    return {"preprocessing": changed, "mean": mean, "std": std, "is_bgr": is_bgr}


def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], *, options: SourceOptions, is_grey: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a library's mean and std, or the user's, by channel in the network's order and in units of 0..1."""
    images, count = options.images, 1 if is_grey else 3
    is_whole = images.mean is not None and images.std is not None
    if images.scale is not None and not is_whole:
        raise InputError("--scale is the unit of --mean and --std; give these too, or leave it out")
    scale = DEFAULT_SCALE if images.scale is None else images.scale
    if not scale or not all(images.std or (1,)):
        raise InputError("--scale and --std must not be 0")
    if is_grey and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        if not is_whole:
            options.on_note(
                f"one channel: mean {mean[0]:.4g} and std {std[0]:.4g}, the averages of the three; give --mean and --std if "
                "it was trained with others"
            )
    if images.channels == "bgr":  # the library's are of red, green and blue
        mean, std = mean[::-1], std[::-1]
    if images.mean is not None:
        mean = by_channel(images.mean, channels=count, scale=scale, name="--mean")
    if images.std is not None:
        std = by_channel(images.std, channels=count, scale=scale, name="--std")
    return mean, std


def activation_of_classifier(options: SourceOptions, *, task: Task) -> dict[str, Any]:
    """Return the activation that the user wants, and its threshold, as fields of `ModelFacts`.

    Raises:
        InputError: the network is no classifier, or a threshold is given without a sigmoid.
    """
    activation = options.activation or "softmax"
    if activation == "sigmoid" and task != "classify":
        raise InputError(
            "--activation sigmoid is for classifiers; a segmenter with one channel has it by itself"
        )
    return {
        "activation": activation,
        "threshold": threshold_for(activation, options.threshold),
    }


def threshold_for(activation: Activation, threshold: float | None) -> float | None:
    """Return the threshold that a manifest says for an activation: with sigmoid 0.5, if none is given.

    Raises:
        InputError: one is given for another activation.
    """
    if activation == "sigmoid":
        chosen = DEFAULT_THRESHOLD if threshold is None else threshold
        if not 0 < chosen < 1:
            raise InputError(f"a threshold is a probability between 0 and 1, not {chosen:g}")
        return chosen
    if threshold is not None:
        raise InputError(
            "a threshold needs a sigmoid: give --activation sigmoid, or leave out --threshold"
        )
    return None


def settings_from_text(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return arguments of a function from `--set`: Python literals such as 3, 0.5, True or (1, 2), or the text itself."""
    values: dict[str, Any] = {}
    for name, text in settings.items():
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def bundle_name(text: str) -> str:
    """Return text as the name of a bundle: letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:100] or "network"


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

    A CSV file may have a column `color`, such as #8000ff, or nothing for a class without one. `imagenet` and `voc`, where no
    file has that name, stand for ImageNet's 1,000 classes, and the 21 of Pascal VOC with its colours.

    Raises:
        InputError: the file cannot be read, holds no name, or another colour.
    """
    if str(path) == IMAGENET and not path.is_file():
        return classes_from_names(imagenet_names())
    if str(path) == VOC and not path.is_file():
        path = _VOC_FILE
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read class names from {path}: {e}") from e
    colors: list[Color | None] = []
    if path.suffix.lower() == ".csv":
        rows = _rows(lines, path)
        lines, colors = [row["name"] for row in rows], [_color(row, path) for row in rows]
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path} holds no class names; write one a line")
    return classes_from_names(names, colors)


def classes_from_names(
    names: Sequence[str], colors: Sequence[Color | None] = ()
) -> tuple[ClassInfo, ...]:
    """Return classes by their names. colors: of each class (red, green, blue) in 0..255, or None; empty means none.

    Raises:
        InputError: a name holds a line break, or another control character.
    """
    given = colors or [None] * len(names)
    try:
        return tuple(ClassInfo(name=n, color=c) for n, c in zip(names, given, strict=True))
    except ValueError as e:
        raise InputError(f"{e}; write it without") from e


def _rows(lines: list[str], path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file that have a name."""
    rows = list(csv.DictReader(lines))
    if not rows or "name" not in rows[0]:
        raise InputError(
            f"{path} has no column 'name' in its first line; name the column of the classes so"
        )
    return [row for row in rows if (row["name"] or "").strip()]


def _color(row: dict[str, str], path: Path) -> Color | None:
    text = (row.get("color") or "").strip()
    if not text:
        return None
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", text):
        raise InputError(
            f"{path}: the color of {row['name']!r} is {text!r}; write it as #rrggbb, such as #8000ff"
        )
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue
