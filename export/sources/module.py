"""Any `nn.Module` as a source of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from dlcv.export.sources.base import (
    DEFAULT_SCALE,
    ExportSource,
    bundle_name,
    by_channel,
    classes_from_names,
    read_classes,
    threshold_for,
)
from dlcv.export.sources.module_tasks import MODULE_KINDS, ModuleKind, ModuleTask
from dlcv.export.sources.pretrained import LIMITS_OF_RANDOM
from dlcv.runtime.bundle.schema import Activation, ClassInfo, Preprocessing, Resample, Resize
from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.models.answers import OneAnswer, answer_of

if TYPE_CHECKING:
    from pathlib import Path

    from dlcv.export.sources.base import SourceOptions
    from dlcv.export.writing import BundleOptions
    from dlcv.runtime.bundle import Bundle

_MULTIPLES = (32, 16, 8, 4, 2, 1)  # by which networks shrink an image, and it must be divisible


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """What a bundle must know of a module, which cannot say it.

    classes: in the order of the outputs, names or `ClassInfo` with a colour, or their number; None: as many as there are
    outputs, named by number.
    size: (height, width) of the input in pixels. scale: what pixels in 0..255 are multiplied by first. mean, std:
    subtracted and divided by then, by channel in the module's order, or one number for all. channels: rgb, bgr (blue
    first) or grey, with one. resize, resample, crop_fraction, pad, pad_at: how images come to the size, see
    `Preprocessing`. activation: of a classifier's logits; sigmoid where an image can have several labels. A segmenter's is
    a softmax over its channels, or with one channel a sigmoid. threshold: with sigmoid, the probability from which a
    label, or the second of two classes of pixels, is given; 0.5 by default.
    """

    task: ModuleTask = "classify"
    classes: Sequence[str | ClassInfo] | int | None = None
    size: tuple[int, int] = (224, 224)
    scale: float = DEFAULT_SCALE
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    resize: Resize = "stretch"
    resample: Resample = "bilinear"
    crop_fraction: float = 1.0
    pad: tuple[int, int, int] = (0, 0, 0)
    pad_at: Literal["center", "end"] = "center"
    activation: Activation | None = None
    threshold: float | None = None
    name: str | None = None
    description: str | None = None
    licence: str = "not stated"
    origin: str = "a module in memory"
    remake: tuple[str, ...] = ("dlcv.export.export_model(module, OUT, ...)",)
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in MODULE_KINDS:
            raise InputError(
                f"a module is exported for task {', '.join(MODULE_KINDS)}, not {self.task!r}"
            )
        if not all(self.std) or not self.scale:
            raise InputError(f"scale and std must not be 0, received {self.scale} and {self.std}")
        self.normalisation()

    @property
    def kind(self) -> ModuleKind:
        """What modules of the task return."""
        return MODULE_KINDS[self.task]

    @property
    def channel_count(self) -> int:
        """How many channels the module takes: 3, or 1 of greyscale."""
        return 1 if self.channels == "grey" else 3

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std by channel, in units of 0..1."""
        count, scale = self.channel_count, self.scale
        return (
            by_channel(self.mean, channels=count, scale=scale, name="mean"),
            by_channel(self.std, channels=count, scale=scale, name="std"),
        )


def facts_from_options(options: SourceOptions) -> dict[str, Any]:
    """Return what the user's options say of a module, as fields of `ModuleFacts`.

    Raises:
        InputError: the file with class names cannot be read.
    """
    facts = {
        "task": options.task,
        "classes": read_classes(options.classes) if options.classes else None,
        "size": options.size,
        "activation": options.activation,
        "threshold": options.threshold,
        **options.images.given(),
    }
    if options.random:
        facts |= {"licence": "random weights: none needed", "limits": LIMITS_OF_RANDOM}
    return {name: value for name, value in facts.items() if value is not None}


def source_from_module(module: nn.Module, facts: ModuleFacts) -> ExportSource:
    """Return a module as a source, in evaluation mode, after running it twice.

    The module takes float32 (B, C, H, W). A classifier gives logits (B, classes), an embedder (B, D), a segmenter
    logits (B, classes, h, w), which are up-sampled to the images' size; one channel means two classes, by a sigmoid.
    In a dict the answers are under `out` or `logits`, in a tuple they are first.

    Raises:
        InputError: it fails on images of the size, gives other answers each time, something else, or other classes
            than named.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"an nn.Module is exported, not {type(module).__name__}")
    _put_into_evaluation(module)
    shape, is_alone = _shape_of_answers(module, facts)
    up_samples = facts.kind.is_dense and shape[2:] != facts.size
    is_usual = is_alone and not up_samples
    activation = facts.kind.activation(facts.activation, shape[1])
    mean, std = facts.normalisation()
    name = facts.name or type(module).__name__.strip("_")
    return ExportSource(
        # What is traced is the network itself, where its answers are already as wrappers take them.
        model=module if is_usual else OneAnswer(module, up_samples=up_samples).eval(),
        name=bundle_name(name),
        task=facts.task,
        classes=_classes(facts, channels=shape[1]),
        preprocessing=_preprocessing(facts),
        activation=activation,
        threshold=threshold_for(activation, facts.threshold),
        mean=mean,
        std=std,
        is_bgr=facts.channels == "bgr",
        description=facts.description or f"{name}, a network of its users' own.",
        licence=facts.licence,
        origin=facts.origin,
        data="Not stated.",
        remake=facts.remake,
        limits=facts.limits,
    )


def export_model(
    module: nn.Module,
    out: str | Path,
    *,
    options: BundleOptions | None = None,
    **facts: Any,
) -> Bundle:
    """Export a module as a bundle and return it. It is written only if its graph gives the module's answers.

    The module is exported in evaluation mode, and left in the mode in which it was.

    facts: fields of `ModuleFacts`, such as task="segment", classes=["sky", "road"], size=(256, 256).
    options: images of the parity gate, overwriting.

    Raises:
        InputError: a fact is unknown or does not fit the module.
        OutputError: `out` exists, or cannot be written.
        ParityError: the graph does not give what the module gives.
    """
    from pathlib import Path

    from dlcv.export.bundle import export_bundle

    try:
        known = ModuleFacts(**facts)
    except TypeError as e:
        raise InputError(f"export_model has no such fact: {e}") from e
    modes = {part: part.training for part in module.modules()} if _is_module(module) else {}
    try:
        return export_bundle(source_from_module(module, known), Path(out), options)
    finally:
        for part, mode in modes.items():
            part.training = mode


def _is_module(module: object) -> bool:
    return isinstance(module, nn.Module)


def _put_into_evaluation(module: nn.Module) -> None:
    module.eval()
    if training := [name for name, part in module.named_modules() if part.training]:
        raise InputError(
            f"the network stays in training mode after eval() (in {training[0] or 'itself'}); its eval() and train() must "
            "pass the mode on, as those of nn.Module"
        )


def _shape_of_answers(module: nn.Module, facts: ModuleFacts) -> tuple[tuple[int, ...], bool]:
    """Run a module twice on two noisy images. Return the shape of its answers, and whether it returns nothing else."""
    height, width = facts.size
    random = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, facts.channel_count, height, width, generator=random)
    try:
        with torch.inference_mode():
            outputs = module(pixels)
            again = answer_of(module(pixels))
        answer = answer_of(outputs)
    except RecipeError as e:
        raise InputError(str(e)) from e
    except Exception as e:  # anything can come from the user's code
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(
            f"the network fails on float32 {tuple(pixels.shape)} ({reason}); give another --size or --channels, or mend it"
        ) from e
    _put_into_evaluation(module)
    if answer.shape != again.shape or not torch.allclose(answer, again, equal_nan=True):
        raise InputError(
            "the network gives other answers for the same images when it is run again; in evaluation mode it must not "
            "draw random numbers (F.dropout takes training=self.training) or change itself"
        )
    shape = tuple(answer.shape)
    axes = facts.kind.axes
    if len(shape) != len(axes) or shape[0] != 2:
        raise InputError(
            f"for task {facts.task!r} the network must give ({', '.join(axes)}); for two images of {height}x{width} it gave {shape}"
        )
    return shape, answer is outputs


def _classes(facts: ModuleFacts, *, channels: int) -> tuple[ClassInfo, ...]:
    """Return the classes: as the user names them, or by the task's own names."""
    own, given = facts.kind.class_names(channels), facts.classes
    named = own if given is None or isinstance(given, int) else list(given)
    count = given if isinstance(given, int) else len(named)
    if count != len(own):
        raise InputError(f"the network has {len(own)} classes, {count} are named")
    names = [c.name if isinstance(c, ClassInfo) else c for c in named]
    return classes_from_names(names, [c.color if isinstance(c, ClassInfo) else None for c in named])


def _divides(multiple: int, side: int) -> bool:
    """Whether a side is two or more multiples: torch.export would make one a constant."""
    return side % multiple == 0 and side > multiple


def _preprocessing(facts: ModuleFacts) -> Preprocessing:
    is_dense, size = facts.kind.is_dense, facts.size
    candidates = _MULTIPLES if is_dense else (1,)
    multiple = next(m for m in candidates if m == 1 or all(_divides(m, side) for side in size))
    try:
        return Preprocessing(
            resize=facts.resize,
            size=size,
            multiple=multiple,
            resample=facts.resample,
            crop_fraction=facts.crop_fraction,
            pad=facts.pad,
            pad_at=facts.pad_at,
            channels=1 if facts.channels == "grey" else 3,
        )
    except ValueError as e:
        raise InputError(str(e)) from e
