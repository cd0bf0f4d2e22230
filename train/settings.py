"""The parts of a recipe: frozen models, validated on creation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from dlcv.runtime.bundle.schema import Channel, Positive
from dlcv.runtime.errors import RecipeError

Task: TypeAlias = Literal["classify", "segment"]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]
AboveZero: TypeAlias = Annotated[float, Meta(gt=0)]
Triple: TypeAlias = tuple[float, float, float]


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of all parts of a recipe: frozen, keyword-only, unknown keys are refused."""


class ModelConfig(Model, frozen=True, kw_only=True):
    """A network by its name in `dlcv.train.models.MODELS`, or LIBRARY:NAME; `options` go to its builder.

    In `py:FILE.py:FUNCTION`, a relative FILE lies beside the recipe, or in the working directory.
    """

    name: str
    options: dict[str, Any] = {}

    @property
    def python_file(self) -> Path | None:
        """The file of a `py:` network; None of others."""
        library, _, rest = self.name.partition(":")
        file = rest.rpartition(":")[0]
        return Path(file) if library == "py" and file else None

    def with_python_file(self, file: Path) -> ModelConfig:
        """Return the same `py:` network, in another file."""
        function = self.name.rpartition(":")[2]
        return ModelConfig(name=f"py:{file}:{function}", options=self.options)


class Normalization(Model, frozen=True, kw_only=True):
    """Per channel: (pixel / 255 - mean) / std, so both are in units of 0..1."""

    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"every std must be above 0, not {self.std}")
        if max(self.mean) > 1:
            raise ValueError(f"mean is in units of 0..1, not 0..255: {self.mean}")


class DataConfig(Model, frozen=True, kw_only=True):
    """A data set by its kind in `dlcv.train.data.DATASETS` and its folder under the data root.

    train, test: where the splits are in that folder: a folder, or a ZIP or tar archive (the two of `cifar10`
    have fixed names). images, masks: patterns that match files of `pairs`; `{}` stands for the same name.
    mask_coding: `index`, a pixel is the index of its class; `rgb`, it has the `color` of its class.
    ignore_labels, ignore_colors: values in such masks that are neither trained on nor scored; label 255 never
    is. labels: the data's own names of the classes, in their order (names of folders, such as WordNet ids, or
    labels in a CSV); without it, the class names. hold_out: this many training images, the last ones, are used
    for validation instead of training; the data set's own validation or test split is then only for the final
    score. Without it, that split is used for validation. train_limit: keep only the first images of the
    training set, for quick trials. Data sorted by class (`folders`, `labelled-names`, `csv`) is first shuffled,
    always in the same way. validation_share: of data without a split of their own, this share of each class's images
    (of all images, for masks), drawn always in the same way, is for validation and the final score; the rest is
    trained on. in_memory: whether images are decoded once and kept in memory; `auto` does so where a split takes at
    most a quarter of the memory that is free, and otherwise decodes each image when it is needed.
    """

    name: str
    root: str
    train: str | None = None
    test: str | None = None
    images: str = "images/{}.jpg"
    masks: str = "labels/{}.png"
    mask_coding: Literal["index", "rgb"] = "index"
    ignore_labels: tuple[Channel, ...] = ()
    ignore_colors: tuple[tuple[Channel, Channel, Channel], ...] = ()
    labels: tuple[str, ...] = ()
    hold_out: Positive | None = None
    train_limit: Positive | None = None
    validation_share: Annotated[float, Meta(gt=0, lt=1)] | None = None
    in_memory: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for key in ("root", "train", "test"):
            require_relative(f"data.{key}", getattr(self, key) or "")
        for key in ("images", "masks"):
            if getattr(self, key).count("{}") != 1:
                raise ValueError(
                    f"data.{key} must have one {{}} for the name, as in images/{{}}.jpg"
                )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("data.labels must be different from each other")
        by_color = self.mask_coding == "rgb"
        if (self.ignore_labels if by_color else self.ignore_colors) != ():
            fitting = "ignore_colors" if by_color else "ignore_labels"
            raise ValueError(f"data.mask_coding {self.mask_coding} goes with data.{fitting}")

        if self.validation_share is not None and (self.test or self.hold_out):
            raise ValueError(
                "data.validation_share takes its images from data.train; leave out data.test and data.hold_out"
            )

    def split_path(self, *, train: bool) -> str:
        """Return the path of a split in the data set's folder.

        Raises:
            RecipeError: the recipe does not say.
        """
        path = self.train if train else self.test
        if path is None:
            key = "train" if train else "test"
            raise RecipeError(f"data.{key} is missing: where in {self.root} does that split lie?")
        return path


class OptimizerConfig(Model, frozen=True, kw_only=True):
    """The optimizer. Biases and normalisation parameters get no weight decay.

    backbone_lr_scale: factor of `lr` for the pretrained backbone. clip_norm: largest norm of the gradient, or
    null.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: AboveZero
    weight_decay: NonNegative = 0.0
    momentum: Share = 0.9
    backbone_lr_scale: AboveZero = 1.0
    clip_norm: AboveZero | None = None


class ScheduleConfig(Model, frozen=True, kw_only=True):
    """Linear warm-up, then decay per step: `cosine` to 0; `poly`, (1 - progress) ** power; or `constant`.

    Or `steps`: multiply by `factor` after every `step_epochs` epochs.
    """

    name: Literal["cosine", "poly", "constant", "steps"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    power: AboveZero = 0.9
    step_epochs: Positive = 1
    factor: AboveZero = 0.9


class AugmentConfig(Model, frozen=True, kw_only=True):
    """Random augmentation of training images, in this order.

    stored: (height, width) at which training images are kept in memory, decoded once; without it, the recipe's
    preprocessing size. A larger size leaves a margin for cropping, a smaller one saves memory. policies:
    AutoAugment policies (Cubuk et al. 2019, https://arxiv.org/abs/1805.09501); each epoch goes through the
    training set once per policy. area: a random box of this share of the image is resized to the crop (Szegedy
    et al. 2015, https://arxiv.org/abs/1409.4842). resize: sides are first resized to this. pad: zero pixels
    added on each side before cropping. crop: side of the square crop in pixels. scale: range of random scaling
    before cropping (segment). flip: mirror left-right. rotation: up to this many degrees either way. jitter:
    brightness, contrast and saturation vary by up to this factor. mixup: images of a batch are mixed in pairs, and
    their losses with them, in shares drawn from Beta(mixup, mixup) (Zhang et al. 2018,
    https://arxiv.org/abs/1710.09412). All but crop, scale, flip and jitter are for task classify.
    """

    stored: tuple[Positive, Positive] | None = None
    policies: tuple[Literal["imagenet", "cifar10", "svhn"], ...] = ()
    area: tuple[AboveZero, AboveZero] | None = None
    resize: Positive | None = None
    crop: Positive
    pad: Annotated[int, Meta(ge=0)] = 0
    scale: tuple[AboveZero, AboveZero] = (1.0, 1.0)
    flip: bool = True
    rotation: Annotated[float, Meta(ge=0, le=180)] = 0.0
    jitter: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    mixup: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale must be (low, high), not {self.scale}")
        if self.area is not None and not self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"augment.area must be (low, high) up to 1, not {self.area}")
        if self.area is not None and (self.resize or self.pad):
            raise ValueError("augment.area gives the crop by itself; drop augment.resize and pad")


class PatchDropConfig(Model, frozen=True, kw_only=True):
    """Drop a random `rate` of a ViT's tokens in training, except in the last `full_epochs`."""

    rate: Annotated[float, Meta(gt=0, lt=1)]
    full_epochs: Annotated[int, Meta(ge=0)] = 1


class LossConfig(Model, frozen=True, kw_only=True):
    """Cross-entropy.

    class_weights: `log` gives 1 / ln(log_offset + class share) as ENet does (Paszke et al. 2016,
    https://arxiv.org/abs/1606.02147), scaled to a mean of 1. aux: weight of the auxiliary classifier's loss in
    training; null leaves it out.
    """

    label_smoothing: Share = 0.0
    class_weights: Literal["none", "log"] = "none"
    log_offset: Annotated[float, Meta(gt=1)] = 1.02
    aux: AboveZero | None = None


class StopConfig(Model, frozen=True, kw_only=True):
    """Early stopping: stop after `patience` validations without improvement of the score that selects checkpoints."""

    patience: Positive


class DistillConfig(Model, frozen=True, kw_only=True):
    """Knowledge distillation. The teacher sees the same crop as the student.

    weight: share of the distillation term in the loss; the rest is cross-entropy with the labels. outputs: how many
    classes the teacher tells apart, and classes: which of them are the recipe's, in its order; without them it has
    the recipe's own. normalization: of the teacher; without it, the recipe's.
    """

    model: ModelConfig
    weights: str
    temperature: AboveZero = 1.0
    weight: Share = 1.0
    outputs: Positive | None = None
    classes: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        require_relative("distill.weights", self.weights)
        if (self.outputs is None) == bool(self.classes):
            raise ValueError("distill.outputs and distill.classes go together")
        if self.outputs is not None and max(self.classes) >= self.outputs:
            raise ValueError(
                f"distill.classes names {max(self.classes)}, and distill.outputs is {self.outputs}"
            )


def require_relative(key: str, path: str) -> None:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{key} must be a path inside the data root, not {path!r}")
