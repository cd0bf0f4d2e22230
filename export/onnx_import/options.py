"""The user's options for importing an ONNX file."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from dlcv.export.writing import OPSET, BundleOptions
from dlcv.runtime.bundle.schema import Task
from dlcv.runtime.errors import InputError

Layout: TypeAlias = Literal["nchw", "nhwc"]
Channels: TypeAlias = Literal["rgb", "bgr", "grey"]
Resize: TypeAlias = Literal["stretch", "center_crop", "longest_side"]


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
            f" {option} {','.join(f'{n:.10g}' for n in numbers)}"
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

    size: (height, width) in pixels, for a graph that takes any size. resize, crop_fraction, resample, multiple:
    as in `Preprocessing`. classes: file of names. softmax: whether to add a softmax (for one channel, a
    sigmoid); "auto" decides by the outputs for photos. output, embedding: names of tensors anywhere in the
    file's graph. opset: of the new graph.
    """

    task: Task
    scaling: Scaling = field(default_factory=Scaling)
    layout: Layout | None = None
    channels: Channels | None = None
    size: tuple[int, int] | None = None
    resize: Resize = "stretch"
    crop_fraction: float = 1.0
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    multiple: int = 1
    classes: Path | None = None
    softmax: Literal["auto", "yes", "no"] = "auto"
    output: str | None = None
    embedding: str | None = None
    opset: int | None = None
    writing: BundleOptions = field(default_factory=BundleOptions)

    def __post_init__(self) -> None:
        if self.opset is not None and self.opset < OPSET:
            raise InputError(f"--opset must be {OPSET} or more, not {self.opset}")
        if self.embedding is not None and self.task != "classify":
            raise InputError(
                "--embedding is for --task classify; for --task embed name the vector by --output"
            )
        if self.classes is not None and self.task == "embed":
            raise InputError("--task embed has no classes; leave --classes out")

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
            "classes": shlex.quote(self.classes.name) if self.classes else None,
            "softmax": None if self.softmax == "auto" else self.softmax,
            "output": shlex.quote(self.output) if self.output else None,
            "embedding": shlex.quote(self.embedding) if self.embedding else None,
            "opset": self.opset,
        }
        said = "".join(f" --{name} {value}" for name, value in fields.items() if value is not None)
        return f"--task {self.task}{self.scaling.command_line}{said}"
