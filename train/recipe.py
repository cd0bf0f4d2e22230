"""A recipe: everything that decides a training run, as one YAML file in one frozen, validated model.

Unknown keys are refused, contradictions raise. Paths in a recipe are relative to the data root,
which is named on the command line (`--data`) or by the environment variable DLCV_DATA.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import yaml
from msgspec import Meta

from dlcv.runtime.errors import RecipeError
from dlcv.runtime.manifest import Channel, ClassInfo, Positive, Preprocessing

RECIPE_FOLDER = Path(__file__).parent / "recipes"
DATA_VARIABLE = "DLCV_DATA"

Task: TypeAlias = Literal["classify", "segment"]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]
AboveZero: TypeAlias = Annotated[float, Meta(gt=0)]
Triple: TypeAlias = tuple[float, float, float]


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of a recipe: frozen, keyword-only, unknown keys refused."""


class ModelConfig(Model, frozen=True, kw_only=True):
    """A network by its name in `dlcv.train.models.MODELS`; `options` go to its builder."""

    name: str
    options: dict[str, Any] = {}


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

    train, test: where the splits lie in that folder: a folder, or a ZIP or tar archive (the two of `cifar10`
    have fixed names). images, masks: which files of `pairs` belong together; `{}` stands for the same name.
    mask_coding: `index`, a pixel is the index of its class; `rgb`, it has the `color` of its class.
    ignore_labels, ignore_colors: values in such masks that are neither learnt nor scored; label 255 never is.
    labels: what the data calls the classes, in their order (names of folders, such as WordNet ids, or labels
    in a CSV); without it, their names.
    hold_out: this many training images, the last ones, are not trained on but validate; the data set's own
    validation or test split is then only for the final score. Without it that split validates.
    `train_limit` keeps only the first images of the training set, for trying things out. Data that is sorted by
    class (`folders`, `labelled-names`, `csv`) is shuffled before that, always in the same way.
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

    def __post_init__(self) -> None:
        for key in ("root", "train", "test"):
            _require_relative(f"data.{key}", getattr(self, key) or "")
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

    def split_path(self, *, train: bool) -> str:
        """Return where a split lies in the data set's folder.

        Raises:
            RecipeError: the recipe does not say.
        """
        path = self.train if train else self.test
        if path is None:
            key = "train" if train else "test"
            raise RecipeError(f"data.{key} is missing: where in {self.root} does that split lie?")
        return path


class OptimizerConfig(Model, frozen=True, kw_only=True):
    """Biases and normalisation parameters get no weight decay.

    backbone_lr_scale: the pretrained backbone learns at `lr` times this. clip_norm: largest norm of
    the gradient, or null.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: AboveZero
    weight_decay: NonNegative = 0.0
    momentum: Share = 0.9
    backbone_lr_scale: AboveZero = 1.0
    clip_norm: AboveZero | None = None


class ScheduleConfig(Model, frozen=True, kw_only=True):
    """Linear warm-up, then per step: `cosine` to 0; `poly`, (1 - progress) ** power; or `constant`."""

    name: Literal["cosine", "poly", "constant"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    power: AboveZero = 0.9


class AugmentConfig(Model, frozen=True, kw_only=True):
    """Random changes to training images, in this order.

    stored: (height, width) at which training images are kept in memory, decoded once; without it, the
    recipe's preprocessing size. More than that leaves a margin for cropping, less saves memory. policies: the
    training set is gone through once per AutoAugment policy and epoch (Cubuk et al. 2019,
    https://arxiv.org/abs/1805.09501). area: a random box of this share of the image is resized to the crop
    (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842). resize: sides are first resized to this. pad: zero
    pixels added on each side before cropping. crop: side of the square crop in pixels. scale: range of
    random scaling before cropping (segment). flip: mirror left-right. rotation: up to this many degrees
    either way. jitter: brightness, contrast and saturation vary by up to this factor.
    All but crop, scale, flip and jitter are for task classify.
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

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale must be (low, high), not {self.scale}")
        if self.area is not None and not self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"augment.area must be (low, high) up to 1, not {self.area}")
        if self.area is not None and (self.resize or self.pad):
            raise ValueError("augment.area gives the crop by itself; drop augment.resize and pad")


class PatchDropConfig(Model, frozen=True, kw_only=True):
    """Hide a random `rate` of a ViT's tokens in training, except in the last `full_epochs`."""

    rate: Annotated[float, Meta(gt=0, lt=1)]
    full_epochs: Annotated[int, Meta(ge=0)] = 1


class LossConfig(Model, frozen=True, kw_only=True):
    """Cross-entropy.

    class_weights: `log` gives 1 / ln(log_offset + class share) as ENet does (Paszke et al. 2016,
    https://arxiv.org/abs/1606.02147), scaled to a mean of 1.
    aux: what the loss of the network's auxiliary classifier is added with in training; null leaves it out.
    """

    label_smoothing: Share = 0.0
    class_weights: Literal["none", "log"] = "none"
    log_offset: Annotated[float, Meta(gt=1)] = 1.02
    aux: AboveZero | None = None


class StopConfig(Model, frozen=True, kw_only=True):
    """Stop early: when the score by which the best checkpoint is kept has not improved `patience` times."""

    patience: Positive


class DistillConfig(Model, frozen=True, kw_only=True):
    """A teacher that sees the same crop as the student.

    weight: share of the distillation term in the loss; the rest is cross-entropy with the labels.
    """

    model: ModelConfig
    weights: str
    temperature: AboveZero = 1.0
    weight: Share = 1.0

    def __post_init__(self) -> None:
        _require_relative("distill.weights", self.weights)


class Recipe(Model, frozen=True, kw_only=True):
    """One training run. `weights`, a file, go into the model's backbone; null trains from scratch.

    pretrained: download the weights that timm or torchvision publish, instead of a file. allow_missing: prefixes
    of tensors that stay as they are, whatever is in the file; `head` is the layers that depend on the classes.
    freeze: prefixes of parameters of the network that stay as they are. freeze_batch_norm: keep the
    running statistics of the backbone's BatchNorm layers. validate_every: epochs between two scores;
    the last epoch and snapshots are always scored. keep: which checkpoint is kept: that of the least validation
    `loss`, or of the best `metric` (accuracy, mean IoU). snapshots: epochs whose checkpoints are kept besides.
    accumulate: batches whose gradients are added up before a step; the effective batch is `batch` times this.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]*$")]
    task: Task
    description: str
    model: ModelConfig
    classes: tuple[ClassInfo, ...]
    preprocessing: Preprocessing
    normalization: Normalization
    data: DataConfig
    weights: str | None = None
    pretrained: bool = False
    allow_missing: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    freeze_batch_norm: bool = False
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    epochs: Positive
    batch: Positive
    accumulate: Positive = 1
    validate_every: Positive = 1
    keep: Literal["loss", "metric"] = "metric"
    stop: StopConfig | None = None
    snapshots: tuple[Positive, ...] = ()
    augment: AugmentConfig
    patch_drop: PatchDropConfig | None = None
    loss: LossConfig = LossConfig()
    distill: DistillConfig | None = None
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    seed: int = 0
    data_note: str = ""
    licence_note: str = ""

    def __post_init__(self) -> None:
        if self.weights is not None:
            _require_relative("weights", self.weights)
        for problem in _contradictions(self):
            raise ValueError(problem)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the network's outputs."""
        return tuple(c.name for c in self.classes)


def recipe_from_yaml(text: str) -> Recipe:
    """Parse and check a recipe.

    Raises:
        RecipeError: not YAML, an unknown or missing key, a wrong type or value, a contradiction.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise RecipeError(f"not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(data, dict):
        raise RecipeError(f"a recipe is a mapping of settings, not {type(data).__name__}")
    try:
        return msgspec.convert(data, Recipe)
    except msgspec.ValidationError as e:
        raise RecipeError(str(e)) from e


def yaml_from_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, every setting written out; `recipe_from_yaml` gives it back."""
    text: str = yaml.safe_dump(
        msgspec.to_builtins(recipe, builtin_types=()),
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return text


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a YAML file, or a built-in one by its name.

    Raises:
        RecipeError: neither a file nor a built-in recipe, or malformed; the sentence names the file.
    """
    path = Path(source)
    if not path.is_file() and str(source) in builtin_recipes():
        path = RECIPE_FOLDER / f"{source}.yaml"
    try:
        return recipe_from_yaml(path.read_text(encoding="utf-8"))
    except RecipeError as e:
        raise RecipeError(f"{path}: {e}") from e.__cause__
    except (OSError, UnicodeDecodeError) as e:
        names = ", ".join(builtin_recipes())
        raise RecipeError(
            f"{source}: no readable recipe file, and no built-in recipe has this name ({names})"
        ) from e


def changed(
    recipe: Recipe,
    *,
    epochs: int | None = None,
    seed: int | None = None,
    allow_missing: tuple[str, ...] | None = None,
) -> Recipe:
    """Return a recipe with another number of epochs, another seed or tensors that may be missing, checked again.

    Raises:
        RecipeError: the change contradicts the rest of the recipe.
    """
    changes = {"epochs": epochs, "seed": seed, "allow_missing": allow_missing}
    data = msgspec.to_builtins(recipe) | {k: v for k, v in changes.items() if v is not None}
    try:
        return msgspec.convert(data, Recipe)
    except msgspec.ValidationError as e:
        raise RecipeError(str(e)) from e


def builtin_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with dlcv, sorted."""
    return tuple(sorted(p.stem for p in RECIPE_FOLDER.glob("*.yaml")))


def data_root(folder: str | Path | None = None) -> Path:
    """Return the data root: `folder`, else what DLCV_DATA says now.

    Raises:
        RecipeError: neither is given, or it is not a folder.
    """
    chosen = folder or os.environ.get(DATA_VARIABLE)
    if not chosen:
        raise RecipeError(
            f"where the data lies is not known; give --data DIR or set {DATA_VARIABLE}=DIR"
        )
    root = Path(chosen)
    if not root.is_dir():
        raise RecipeError(f"the data root {root} is not a folder; give --data or {DATA_VARIABLE}")
    return root


def _require_relative(key: str, path: str) -> None:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{key} must be a path inside the data root, not {path!r}")


def _contradictions(recipe: Recipe) -> list[str]:
    """Return every contradiction between settings, in words."""
    problems = []
    names = recipe.class_names
    if len(names) < 2 or len(set(names)) != len(names):
        problems.append(f"classes must be two or more different names, not {list(names)}")
    if recipe.task == "segment":
        if any(c.color is None for c in recipe.classes):
            problems.append("segmentation needs a color for every class")
        if recipe.distill or recipe.patch_drop:
            problems.append("distill and patch_drop are for task classify")
    elif recipe.augment.scale != (1.0, 1.0) or recipe.loss.class_weights != "none":
        problems.append("augment.scale and loss.class_weights are for task segment")
    if recipe.patch_drop and recipe.patch_drop.full_epochs > recipe.epochs:
        problems.append(
            f"patch_drop.full_epochs {recipe.patch_drop.full_epochs} exceeds epochs {recipe.epochs}"
        )
    if recipe.snapshots and max(recipe.snapshots) > recipe.epochs:
        problems.append(f"snapshots {list(recipe.snapshots)} go beyond epochs {recipe.epochs}")
    if recipe.data.hold_out and recipe.data.hold_out >= (recipe.data.train_limit or math.inf):
        problems.append("data.hold_out leaves nothing of data.train_limit to train on")
    if recipe.schedule.warmup_epochs >= recipe.epochs:
        problems.append(
            f"schedule.warmup_epochs {recipe.schedule.warmup_epochs} leaves nothing of"
            f" {recipe.epochs} epochs"
        )
    return problems + _start_contradictions(recipe) + _data_contradictions(recipe)


def _start_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.pretrained and recipe.weights is not None:
        problems.append("pretrained and weights exclude each other")
    if recipe.allow_missing and recipe.weights is None:
        problems.append("allow_missing is for a weights file, of which there is none")
    if recipe.loss.aux is not None and recipe.task != "segment":
        problems.append("loss.aux is for task segment")
    return problems


def _data_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    augment, labels = recipe.augment, recipe.data.labels
    if labels and len(labels) != len(recipe.classes):
        problems.append(f"data.labels names {len(labels)} classes, not {len(recipe.classes)}")
    if recipe.task == "segment":
        unfit = [
            k for k in ("policies", "area", "resize", "pad", "rotation") if getattr(augment, k)
        ]
        problems += [f"augment.{key} is for task classify" for key in unfit]
    elif augment.area is None and recipe.preprocessing.resize != "longest_side":
        sides = (augment.resize,) if augment.resize else augment.stored or recipe.preprocessing.size
        if augment.crop > min(sides) + 2 * augment.pad:
            problems.append(
                f"augment.crop {augment.crop} is larger than images of {min(sides)} pixels with"
                f" augment.pad {augment.pad}; set augment.resize"
            )
    return problems
