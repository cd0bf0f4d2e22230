"""The parts of a manifest: frozen, validated models, and the types of their fields."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

Task: TypeAlias = Literal["classify", "segment", "embed", "caption"]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
Target: TypeAlias = Literal["cpu", "tensorrt"]
VariantName: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int8-cpu", "int8-tensorrt"]
DType: TypeAlias = Literal["uint8", "uint16", "int32", "int64", "float16", "float32"]
Storage: TypeAlias = Literal["fp32", "fp16"]
Activation: TypeAlias = Literal["softmax", "sigmoid"]
Resize: TypeAlias = Literal["stretch", "center_crop", "longest_side", "letterbox"]
Resample: TypeAlias = Literal["bilinear", "bicubic", "lanczos"]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Channel: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
Dimension: TypeAlias = int | str
Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ScoreName: TypeAlias = Literal["top1", "mean_iou"]


_CONTROL = ("Cc", "Zl", "Zp")  # control characters, separators of lines and paragraphs


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of all parts of a manifest: frozen, keyword-only, unknown keys are refused."""


class ClassInfo(Model, frozen=True):
    """One class: its name and, for masks, its colour as (red, green, blue) in 0..255."""

    name: str
    color: tuple[Channel, Channel, Channel] | None = None

    def __post_init__(self) -> None:
        if not self.name.isprintable() and any(
            unicodedata.category(character) in _CONTROL for character in self.name
        ):
            raise ValueError(
                f"a class name has no line breaks and control characters, as {self.name!r} has"
            )


class Preprocessing(Model, frozen=True):
    """How the host resizes a decoded, oriented image before it enters the graph.

    `stretch` resizes to `size` and ignores the aspect ratio. `center_crop` resizes so that the shorter relative
    side becomes `size / crop_fraction`, and cuts `size` out of the middle; half of an odd number of pixels left over is
    rounded to the nearest even number (`crop_rounding` even, as torchvision does) or down. `letterbox` resizes so that the whole
    image fits into `size`, and fills the rest with the colour `pad`: on all sides (`pad_at` center) or only right and
    below (end). `longest_side` keeps the aspect ratio: the longer side becomes `max(size)`, and both sides are
    rounded to the nearest multiple of `multiple`. Sizes are (height, width) in pixels.

    channels: 3 of RGB, or 1 of greyscale (ITU-R BT.601), converted before the resize.
    """

    resize: Resize
    size: tuple[Positive, Positive]
    multiple: Positive = 1
    resample: Resample = "bilinear"
    crop_fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    crop_rounding: Literal["even", "down"] = "even"
    pad: tuple[Channel, Channel, Channel] = (0, 0, 0)
    pad_at: Literal["center", "end"] = "center"
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if self.size[0] % self.multiple or self.size[1] % self.multiple:
            raise ValueError(
                f"preprocessing size {self.size} is not a multiple of {self.multiple} on both sides"
            )
        if self.crop_fraction != 1.0 and self.resize != "center_crop":
            raise ValueError(f"crop_fraction needs resize 'center_crop', not {self.resize!r}")
        if self.crop_rounding != "even" and self.resize != "center_crop":
            raise ValueError(f"crop_rounding needs resize 'center_crop', not {self.resize!r}")
        if (self.pad, self.pad_at) != ((0, 0, 0), "center") and self.resize != "letterbox":
            raise ValueError(f"pad and pad_at need resize 'letterbox', not {self.resize!r}")


class TensorSpec(Model, frozen=True):
    """A graph input or output. A dimension is a number, or a symbol such as "batch"."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


class OutputParity(Model, frozen=True):
    """The largest measured deviations of one output from the reference, and the allowed ones.

    `agreement` is the share of equal decisions: top-1 classes for `probabilities`, pixels for `mask`.
    """

    max_difference: float
    mean_difference: float
    cosine: float | None = None
    agreement: float | None = None
    max_difference_allowed: float | None = None
    cosine_required: float | None = None
    agreement_required: float | None = None


class ParityReport(Model, frozen=True):
    """What the parity gate measured: reference against engine on real images."""

    reference: str
    engine: str
    images: str
    input_shapes: tuple[tuple[int, ...], ...]
    outputs: dict[str, OutputParity]


class Accuracy(Model, frozen=True):
    """The accuracy of a lower precision: `value` of `metric`, against the fp32 graph's `baseline`.

    Both are measured on the same `images` labelled images. `value` may be at most `budget` below `baseline`.
    """

    metric: ScoreName
    value: float
    baseline: float
    budget: float
    data: str
    images: Positive


class Deployed(Model, frozen=True):
    """A variant's score through the whole pipeline, on the engine that serves it.

    `value` of `metric`, in 0..1, was measured on `images` images of `data`. Engine, version, device and
    arithmetic precision are those that ran.
    """

    metric: ScoreName
    value: Annotated[float, Meta(ge=0, le=1)]
    images: Positive
    data: str
    engine: str
    engine_version: str
    device: str
    precision: Precision

    def __str__(self) -> str:
        """Return where it ran and on what data, without the value."""
        ran = f"{self.engine} {self.engine_version} {self.device} {self.precision}"
        return f"{self.images:,} images of {self.data}, on {ran}"


class Plan(Model, frozen=True):
    """A compiled engine of one variant. It runs only on certain versions and devices.

    `graph_sha256` is that of the ONNX bytes it was built from, after cutting to its outputs. `fields` holds
    everything else that it depends on, by name, as in the cache: version, device, profile, flags.
    """

    file: str
    engine: Literal["trt", "trt-rtx"]
    graph_sha256: Sha256
    fields: dict[str, str]


class Variant(Model, frozen=True):
    """One precision of a graph: its ONNX file, opset, and measured parity.

    `kept` names the nodes that stayed in fp32; of int8 graphs, only those that could be converted.
    `weights`, of a graph of fp32 arithmetic, is how its large tensors of weights are stored: with fp16, a Cast
    makes each float32 before it is used, so that all arithmetic is fp32 all the same.
    `accuracy` is set if labelled images were given. `deployed` holds recorded scores, one per engine and data.
    """

    file: str
    opset: Positive
    parity: ParityReport
    kept: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    plans: tuple[Plan, ...] = ()
    deployed: tuple[Deployed, ...] = ()
    weights: Storage = "fp32"


class AnySize(Model, frozen=True):
    """A variant's graph with the bundle's resize in front: it takes one photo as decoded and oriented, of any size.

    variant: whose graph it is. parity: against pixels that the host resized, on photos of `input_shapes`; besides the graph's
    outputs, `resized` is the pixels that enter the network, in 0..255. Its tensors: see `any_size.py`.
    """

    file: str
    opset: Positive
    variant: VariantName
    parity: ParityReport


class Graph(Model, frozen=True, omit_defaults=True):
    """A graph: its tensors, and its variants by name. All variants have the same tensors.

    A name is a precision, or int8 and what the graph is made for: see `variants.py`. any_size: of the graph that takes images,
    if it was made.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: dict[VariantName, Variant]
    any_size: AnySize | None = None  # left out of manifests without it: they stay as they were

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions of the variants, each once, in their order."""
        return tuple(dict.fromkeys(precision_of(name) for name in self.variants))

    @property
    def default_precision(self) -> Precision:
        """The precision that runs by default: the first, as exported."""
        return self.precisions[0]


def precision_of(name: VariantName) -> Precision:
    """Return the precision of a variant's arithmetic."""
    match name:
        case "int8-cpu" | "int8-tensorrt":
            return "int8"
        case _:
            return name


class FileEntry(Model, frozen=True):
    """A file of the bundle: its SHA-256 and its size in bytes."""

    sha256: Sha256
    size_bytes: Annotated[int, Meta(ge=0)]


class Metric(Model, frozen=True):
    """A measured metric of the model, and the data it was measured on."""

    name: str
    value: float
    data: str


class Provenance(Model, frozen=True):
    """Where the bundle comes from: source, time (ISO 8601, UTC), library versions, training recipe."""

    source: str
    created: str
    libraries: dict[str, str]
    recipe: dict[str, Any] | None = None
