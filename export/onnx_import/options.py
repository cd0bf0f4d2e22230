"""The user's options for importing an ONNX file."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from dlcv.export.writing import OPSET, BundleOptions
from dlcv.runtime.bundle.contract import TASKS
from dlcv.runtime.bundle.schema import Activation, Resample, Resize
from dlcv.runtime.errors import InputError

ImportTask: TypeAlias = Literal["classify", "segment", "embed"]
Layout: TypeAlias = Literal["nchw", "nhwc"]
Channels: TypeAlias = Literal["rgb", "bgr", "grey"]
Logits: TypeAlias = Literal["auto", "yes", "no"]

_OF_CLASSES: tuple[ImportTask, ...] = ("classify", "segment")
_ONLY_FOR: dict[str, tuple[ImportTask, ...]] = {
    "embedding": ("classify",),
    "classes": _OF_CLASSES,
    "activation": _OF_CLASSES,
    "threshold": _OF_CLASSES,
    "logits": _OF_CLASSES,
}


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Pixel normalisation: (pixel * scale - mean) / std, with pixels in 0..255.

    mean, std: one number, or one per channel in the order that the network takes them.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for option, numbers in (("--mean", self.mean), ("--std", self.std)):
            if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
                raise InputError(f"{option} takes one number or three, not {len(numbers)}")
        if not (0 < self.scale < math.inf):
            raise InputError(f"--scale must be above 0, such as 1/255 or 1, not {self.scale:g}")
        if min(self.std) <= 0:
            raise InputError(f"--std must be above 0, not {min(self.std):g}")
        if max(map(abs, self.mean)) > 2 and self.scale <= 1 / 127:
            raise InputError(
                f"--mean {max(self.mean):g} is in units of 0..255, but pixels are multiplied by "
                f"{self.scale:.4g} first; give --scale 1, or the mean in units of 0..1"
            )

    @property
    def command_line(self) -> str:
        """The options as typed on the command line, without defaults."""
        usual, given = Scaling(), {"--scale": (self.scale,), "--mean": self.mean, "--std": self.std}
        defaults = {"--scale": (usual.scale,), "--mean": usual.mean, "--std": usual.std}
        return "".join(
            f" {option} {_text(numbers)}"
            for option, numbers in given.items()
            if numbers != defaults[option]
        )

    @property
    def changes_nothing(self) -> bool:
        """Whether the network takes pixels unchanged, in 0..255."""
        return self.scale == 1 and not any(self.mean) and set(self.std) == {1.0}


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to import an ONNX file. None: derived from the file.

    size: (height, width) in pixels, for a graph that takes any size. resize, crop_fraction, resample, multiple, pad_at:
    as in `Preprocessing`. pad: colour of the border in 0..255, red, green and blue, or one number for all. classes: file
    of names. activation: of a classifier; sigmoid where labels are independent of each other, softmax by default; a
    segmenter has softmax, with one channel sigmoid. threshold: with sigmoid, as in `Manifest`; 0.5 by default. logits:
    whether the scores are logits, to which the activation is to be added; "auto" decides by the scores of photos.
    output, embedding: names of tensors anywhere in the file's graph. opset: of the new graph.

    Raises:
        InputError: options contradict each other.
    """

    task: ImportTask
    scaling: Scaling = field(default_factory=Scaling)
    layout: Layout | None = None
    channels: Channels | None = None
    size: tuple[int, int] | None = None
    resize: Resize = "stretch"
    crop_fraction: float = 1.0
    resample: Resample = "bilinear"
    multiple: int = 1
    pad: tuple[float, ...] | None = None
    pad_at: Literal["center", "end"] | None = None
    classes: Path | None = None
    activation: Activation | None = None
    threshold: float | None = None
    logits: Logits = "auto"
    output: str | None = None
    embedding: str | None = None
    opset: int | None = None
    writing: BundleOptions = field(default_factory=BundleOptions)

    def __post_init__(self) -> None:
        if self.task not in get_args(ImportTask):
            raise InputError(
                f"an ONNX file is imported for task {', '.join(get_args(ImportTask))}, not {self.task!r}"
            )
        if self.opset is not None and self.opset < OPSET:
            raise InputError(f"--opset must be {OPSET} or more, not {self.opset}")
        for name, tasks in _ONLY_FOR.items():
            if getattr(self, name) not in (None, "auto") and self.task not in tasks:
                raise InputError(
                    f"--{name} is for --task {' and '.join(tasks)}, not {self.task}; leave it out"
                )
        self._check_resize()

    def _check_resize(self) -> None:
        if self.resize == "center_crop" and TASKS[self.task].covers_image:
            raise InputError(
                f"--task {self.task} answers for the whole image, which --resize center_crop cuts; "
                "give stretch, letterbox or longest_side"
            )
        if self.resize != "letterbox" and (self.pad is not None or self.pad_at is not None):
            raise InputError(f"--pad and --pad-at are for --resize letterbox, not {self.resize}")
        if self.pad is not None and (
            len(self.pad) not in (1, 3) or not all(n in range(256) for n in self.pad)
        ):
            raise InputError(
                f"--pad takes a colour in 0..255, such as 114 or 0,0,0, not {_text(self.pad)}"
            )

    @property
    def border(self) -> tuple[int, int, int]:
        """The colour of a letterbox's border as (red, green, blue)."""
        given = self.pad or (0,)
        red, green, blue = map(int, given * 3 if len(given) == 1 else given)
        return red, green, blue

    @property
    def command_line(self) -> str:
        """The options as typed on the command line, without defaults; file names are without folders."""
        fields = {
            "layout": self.layout,
            "channels": self.channels,
            "size": "{}x{}".format(*self.size) if self.size else None,
            "resize": None if self.resize == "stretch" else self.resize,
            "crop-fraction": None if self.crop_fraction == 1 else f"{self.crop_fraction:g}",
            "resample": None if self.resample == "bilinear" else self.resample,
            "multiple": None if self.multiple == 1 else self.multiple,
            "pad": None if self.pad is None else _text(self.pad),
            "pad-at": self.pad_at,
            "classes": shlex.quote(self.classes.name) if self.classes else None,
            "activation": self.activation,
            "threshold": None if self.threshold is None else f"{self.threshold:.10g}",
            "logits": None if self.logits == "auto" else self.logits,
            "output": shlex.quote(self.output) if self.output else None,
            "embedding": shlex.quote(self.embedding) if self.embedding else None,
            "opset": self.opset,
        }
        said = "".join(f" --{name} {value}" for name, value in fields.items() if value is not None)
        return f"--task {self.task}{self.scaling.command_line}{said}"


def _text(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{n:.10g}" for n in numbers)
