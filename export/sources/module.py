"""Any `nn.Module` as a source of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlcv.export.sources.base import ExportSource
from dlcv.runtime.bundle.schema import ClassInfo, Preprocessing
from dlcv.runtime.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from dlcv.export.writing import BundleOptions
    from dlcv.runtime.bundle import Bundle

ModuleTask: TypeAlias = Literal["classify", "segment", "embed"]
_MULTIPLES = (32, 16, 8, 4, 2, 1)  # by which networks shrink an image, and it must be divisible


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """What a bundle must know of a module, which cannot say it.

    classes: names in the order of the outputs, or their number; None: as many as there are outputs, named by number.
    size: (height, width) of the input in pixels. mean, std: by channel, in units of 0..1; by default pixels are
    only scaled to 0..1. resize, resample: how images come to that size, see `Preprocessing`.
    """

    task: ModuleTask = "classify"
    classes: Sequence[str] | int | None = None
    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: Literal["stretch", "center_crop", "longest_side"] = "stretch"
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    name: str | None = None
    description: str | None = None
    licence: str = "not stated"
    origin: str = "a module in memory"
    remake: tuple[str, ...] = ("dlcv.export.export_model(module, OUT, ...)",)
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in get_args(ModuleTask):
            raise InputError(
                f"a module is exported for task {', '.join(get_args(ModuleTask))}, not {self.task!r}"
            )
        for name in ("mean", "std"):
            if len(values := getattr(self, name)) != 3:
                raise InputError(
                    f"{name} takes three numbers, of red, green and blue, not {values}"
                )
        if not all(self.std):
            raise InputError(f"std must not be 0, received {self.std}")


def source_from_module(module: nn.Module, facts: ModuleFacts) -> ExportSource:
    """Return a module as a source, after running it once.

    The module takes float32 (B, 3, H, W). A classifier gives logits (B, classes), an embedder (B, D), a segmenter
    logits (B, classes, h, w), which are up-sampled to the images' size; one channel means two classes, by a sigmoid.
    In a dict the answers are under `out` or `logits`, in a tuple they are first.

    Raises:
        InputError: it fails on images of the size, or gives something else, or other classes than named.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"an nn.Module is exported, not {type(module).__name__}")
    model = _Answer(module).eval()
    shape = _shape_of_answers(model, facts)
    if facts.task == "segment":
        model.up_samples = shape[2:] != facts.size
        model.is_binary = shape[1] == 1
    name = facts.name or type(module).__name__.strip("_") or "network"
    return ExportSource(
        model=module.eval()
        if model.changes_nothing
        else model,  # what is traced is then the network itself
        name=name,
        task=facts.task,
        classes=_classes(facts, 2 if model.is_binary else shape[1]),
        preprocessing=_preprocessing(facts),
        mean=facts.mean,
        std=facts.std,
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
    return export_bundle(source_from_module(module, known), Path(out), options)


class _Answer(nn.Module):
    """A network's answers as wrappers take them: one tensor; of a segmenter of the images' size, with two channels or more.

    up_samples: logits are smaller than the image, as SegFormer's. is_binary: there is one channel; its sigmoid is the
    probability of the second of two classes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.up_samples = self.is_binary = False
        self.is_one_tensor = True

    @property
    def changes_nothing(self) -> bool:
        """Whether the network's answers are already as wrappers take them; known after a run."""
        return self.is_one_tensor and not (self.up_samples or self.is_binary)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits or embeddings. pixels: normalised float32 (B, 3, H, W)."""
        answer = answer_of(self.network(pixels))
        if self.up_samples:
            answer = functional.interpolate(
                answer, size=pixels.shape[-2:], mode="bilinear", align_corners=False
            )
        if self.is_binary:  # the softmax of (0, x) is (1 - sigmoid(x), sigmoid(x))
            answer = torch.cat([torch.zeros_like(answer), answer], dim=1)
        return answer


def answer_of(outputs: Any) -> Tensor:
    """Return the logits or embedding in what a network returns.

    Raises:
        InputError: there is no tensor that can be it.
    """
    if isinstance(outputs, Mapping):
        named = [outputs[key] for key in ("out", "logits") if key in outputs]
        outputs = named[0] if named else next(iter(outputs.values()), None)
    if isinstance(outputs, (tuple, list)):
        outputs = outputs[0] if outputs else None
    if not isinstance(outputs, Tensor):
        raise InputError(
            "the network returns no tensor of answers; return logits, or a dict with 'out' or 'logits'"
        )
    return outputs


def _shape_of_answers(model: _Answer, facts: ModuleFacts) -> tuple[int, ...]:
    """Run a module on two black images and return the shape of what it gives."""
    height, width = facts.size
    try:
        with torch.inference_mode():
            outputs = model.network(torch.zeros(2, 3, height, width))
        answer = answer_of(outputs)
    except InputError:
        raise
    except Exception as e:  # anything can come from the user's code
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(
            f"the network fails on float32 (2, 3, {height}, {width}) ({reason}); give another --size, or mend it"
        ) from e
    shape = tuple(answer.shape)
    model.is_one_tensor = answer is outputs
    axes = "(batch, classes, H, W)" if facts.task == "segment" else "(batch, outputs)"
    if len(shape) != axes.count(",") + 1 or shape[0] != 2:
        raise InputError(
            f"for task {facts.task!r} the network must give {axes}; for two images of {height}x{width} it gave {shape}"
        )
    return shape


def _classes(facts: ModuleFacts, count: int) -> tuple[ClassInfo, ...]:
    if facts.task == "embed":
        return ()
    given = facts.classes if facts.classes is not None else count
    unnamed = [f"class {number}" for number in range(given)] if isinstance(given, int) else []
    if facts.task == "segment" and facts.classes is None and given == 2:
        unnamed = ["background", "foreground"]
    names = unnamed if isinstance(given, int) else list(given)
    if len(names) != count:
        raise InputError(f"the network has {count} classes, {len(names)} are named")
    return tuple(ClassInfo(name=name) for name in names)


def _preprocessing(facts: ModuleFacts) -> Preprocessing:
    multiple = 1
    if facts.task == "segment":
        multiple = next(m for m in _MULTIPLES if not any(side % m for side in facts.size))
    return Preprocessing(
        resize=facts.resize, size=facts.size, multiple=multiple, resample=facts.resample
    )
