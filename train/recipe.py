"""A recipe: all settings of a training run, as a YAML file and a frozen, validated model.

Unknown keys and contradictions raise. Paths in a recipe are relative to the data root, which is given on the
command line (`--data`) or by the environment variable DLCV_DATA.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import msgspec
import yaml
from msgspec import Meta

from dlcv.runtime.bundle.schema import ClassInfo, Positive, Preprocessing
from dlcv.runtime.errors import RecipeError
from dlcv.train.settings import (
    AugmentConfig,
    DataConfig,
    DistillConfig,
    LossConfig,
    Model,
    ModelConfig,
    Normalization,
    OptimizerConfig,
    PatchDropConfig,
    ScheduleConfig,
    StopConfig,
    Task,
    require_relative,
)

RECIPE_FOLDER = Path(__file__).parent / "recipes"
DATA_VARIABLE = "DLCV_DATA"


RECIPES = {  # by task; imported on use
    "classify": "dlcv.train.recipe:Recipe",
    "segment": "dlcv.train.recipe:Recipe",
    "byol": "dlcv.train.byol.recipe:ByolRecipe",
    "fewshot": "dlcv.train.fewshot.recipe:FewShotRecipe",
    "caption": "dlcv.train.caption.recipe:CaptionRecipe",
}


class RunRecipe(Model, frozen=True, kw_only=True):
    """The settings of every training run, whatever its task.

    weights: a file to load into the model's backbone; null trains from scratch. weights_key: which of several state dicts
    in that file, or in `backbone`, such as model_ema. backbone: like `weights`, from
    a run of any recipe or a weights file, without its head; a path relative to the working directory, NOT the
    data root. pretrained: download the weights that timm or torchvision publish, instead of a file.
    allow_missing: prefixes of tensors that keep random weights, whatever is in the file; `head` means the
    layers that depend on the classes. freeze: prefixes of parameters of the network that are not trained;
    `backbone` is all but the head. freeze_batch_norm: keep the running statistics of the backbone's BatchNorm
    layers. validate_every: epochs between validations; the last epoch and snapshots are always validated. keep:
    which checkpoint is kept: the one with the lowest validation `loss`, or with the best `metric` (accuracy,
    mean IoU, ...). snapshots: epochs whose checkpoints are also kept. accumulate: batches whose gradients are
    added up before a step; the effective batch is `batch` times this.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]*$")]
    task: str
    description: str
    model: ModelConfig
    preprocessing: Preprocessing
    normalization: Normalization
    weights: str | None = None
    weights_key: str | None = None
    backbone: str | None = None
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
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    seed: int = 0
    data_note: str = ""
    licence_note: str = ""

    def __post_init__(self) -> None:
        if self.weights is not None:
            require_relative("weights", self.weights)
        for problem in self.contradictions():
            raise ValueError(problem)

    def contradictions(self) -> list[str]:
        """Return all contradictions between settings, as sentences. Tasks add their own."""
        return [*_run_contradictions(self), *_start_contradictions(self)]


class LabelledRecipe(RunRecipe, frozen=True, kw_only=True):
    """Base of recipes that read labelled images, whatever they use the labels for."""

    classes: tuple[ClassInfo, ...]
    data: DataConfig

    def contradictions(self) -> list[str]:
        """Return all contradictions between settings, as sentences."""
        return [*super().contradictions(), *_class_contradictions(self)]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the network's outputs."""
        return tuple(c.name for c in self.classes)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) at which training images are kept in memory."""
        return self.preprocessing.size


class Recipe(LabelledRecipe, frozen=True, kw_only=True):
    """Supervised training: classification or segmentation."""

    task: Task
    augment: AugmentConfig
    patch_drop: PatchDropConfig | None = None
    loss: LossConfig = LossConfig()
    distill: DistillConfig | None = None

    def contradictions(self) -> list[str]:
        """Return all contradictions between settings, as sentences."""
        return [
            *super().contradictions(),
            *_task_contradictions(self),
            *_data_contradictions(self),
            *_teacher_contradictions(self),
        ]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) at which training images are kept in memory."""
        return self.augment.stored or self.preprocessing.size


AnyRecipe = TypeVar("AnyRecipe", bound=RunRecipe)


def recipe_from_yaml(text: str) -> RunRecipe:
    """Parse and check a recipe. `task` selects its class.

    Raises:
        RecipeError: not YAML, an unknown or missing key, a wrong type or value, a contradiction.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise RecipeError(f"not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(data, dict):
        raise RecipeError(f"a recipe is a mapping of settings, not {type(data).__name__}")
    task = data.get("task")
    if task not in RECIPES:
        raise RecipeError(f"`task` must be one of {', '.join(RECIPES)}, not {task!r}")
    return _converted(data, _recipe_class(task))


def yaml_from_recipe(recipe: RunRecipe) -> str:
    """Return a recipe as YAML with every setting, the inverse of `recipe_from_yaml`."""
    text: str = yaml.safe_dump(
        msgspec.to_builtins(recipe, builtin_types=()),
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return text


@overload
def load_recipe(source: str | Path) -> RunRecipe: ...
@overload
def load_recipe(source: str | Path, kind: type[AnyRecipe]) -> AnyRecipe: ...
def load_recipe(source: str | Path, kind: type[RunRecipe] = RunRecipe) -> RunRecipe:
    """Read a recipe from a YAML file, or a built-in one by its name.

    kind: the class that it must have, for callers that support only one task.

    Raises:
        RecipeError: neither a file nor a built-in recipe, malformed, or of another kind; the sentence names
            the file.
    """
    path = Path(source)
    if not path.is_file() and str(source) in builtin_recipes():
        path = RECIPE_FOLDER / f"{source}.yaml"
    try:
        recipe = recipe_from_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(recipe, kind):
            raise RecipeError(f"this is for tasks {_tasks_of(kind)}, not {recipe.task}")
        return _beside(recipe, path.parent)
    except RecipeError as e:
        raise RecipeError(f"{path}: {e}") from e.__cause__
    except (OSError, UnicodeDecodeError) as e:
        names = ", ".join(builtin_recipes())
        raise RecipeError(
            f"{source}: no readable recipe file, and no built-in recipe has this name ({names})"
        ) from e


def changed(
    recipe: AnyRecipe,
    *,
    epochs: int | None = None,
    seed: int | None = None,
    allow_missing: tuple[str, ...] | None = None,
    backbone: str | None = None,
    weights_key: str | None = None,
    batch: int | None = None,
) -> AnyRecipe:
    """Return a recipe with another number of epochs, seed, batch, start or tensors that may be missing, validated again.

    Raises:
        RecipeError: the change contradicts the rest of the recipe.
    """
    changes = {
        "epochs": epochs,
        "seed": seed,
        "allow_missing": allow_missing,
        "backbone": backbone,
        "weights_key": weights_key,
        "batch": batch,
    }
    data = msgspec.to_builtins(recipe) | {k: v for k, v in changes.items() if v is not None}
    return _converted(data, type(recipe))


def _beside(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """Return a recipe whose `py:` file, if it is relative and lies in the recipe's folder, is named with the folder."""
    file = recipe.model.python_file
    if file is None or file.is_absolute() or not (folder / file).is_file():
        return recipe
    model = recipe.model.with_python_file(folder.resolve() / file)
    return msgspec.structs.replace(recipe, model=model)


def with_network_in(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """Return a recipe whose `py:` network is built by the file of the same name in a folder."""
    file = recipe.model.python_file
    model = recipe.model.with_python_file(folder / file.name) if file else recipe.model
    return msgspec.structs.replace(recipe, model=model)


def portable(recipe: AnyRecipe) -> AnyRecipe:
    """Return a recipe as a checkpoint keeps it: the file of a `py:` network lies beside it."""
    return with_network_in(recipe, Path())


def with_options(recipe: AnyRecipe, options: dict[str, Any]) -> AnyRecipe:
    """Return a recipe with further options for building its network."""
    model = msgspec.structs.replace(recipe.model, options=recipe.model.options | options)
    return msgspec.structs.replace(recipe, model=model)


def builtin_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with dlcv, sorted."""
    return tuple(sorted(p.stem for p in RECIPE_FOLDER.glob("*.yaml")))


def data_root(folder: str | Path | None = None) -> Path:
    """Return the data root: `folder`, or else the environment variable DLCV_DATA.

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


def _recipe_class(task: str) -> type[RunRecipe]:
    module, _, name = RECIPES[task].partition(":")
    found: type[RunRecipe] = getattr(import_module(module), name)
    return found


def _tasks_of(kind: type[RunRecipe]) -> str:
    return " and ".join(task for task in RECIPES if issubclass(_recipe_class(task), kind))


def _converted(data: dict[str, Any], kind: type[AnyRecipe]) -> AnyRecipe:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as e:
        raise RecipeError(str(e)) from e


def _run_contradictions(recipe: RunRecipe) -> list[str]:
    problems = []
    if recipe.snapshots and max(recipe.snapshots) > recipe.epochs:
        problems.append(f"snapshots {list(recipe.snapshots)} go beyond epochs {recipe.epochs}")
    if recipe.schedule.warmup_epochs >= recipe.epochs:
        problems.append(
            f"schedule.warmup_epochs {recipe.schedule.warmup_epochs} leaves nothing of"
            f" {recipe.epochs} epochs"
        )
    return problems


def _start_contradictions(recipe: RunRecipe) -> list[str]:
    problems = []
    starts = {
        "pretrained": recipe.pretrained,
        "weights": recipe.weights,
        "backbone": recipe.backbone,
    }
    given = [name for name, value in starts.items() if value]
    if len(given) > 1:
        problems.append(f"{' and '.join(given)} exclude each other")
    if recipe.weights_key and not (recipe.weights or recipe.backbone):
        problems.append("weights_key is for a weights file, of which there is none")
    if recipe.allow_missing and recipe.weights is None:
        problems.append("allow_missing is for a weights file, of which there is none")
    return problems


def _class_contradictions(recipe: LabelledRecipe) -> list[str]:
    problems = []
    names, data = recipe.class_names, recipe.data
    if len(names) < 2 or len(set(names)) != len(names):
        problems.append(f"classes must be two or more different names, not {list(names)}")
    if data.hold_out and data.hold_out >= (data.train_limit or math.inf):
        problems.append("data.hold_out leaves nothing of data.train_limit to train on")
    if data.labels and len(data.labels) != len(names):
        problems.append(f"data.labels names {len(data.labels)} classes, not {len(names)}")
    return problems


def _teacher_contradictions(recipe: Recipe) -> list[str]:
    known, wanted = len(recipe.distill.classes) if recipe.distill else 0, len(recipe.classes)
    if known and known != wanted:
        return [f"distill.classes names {known} of the teacher's classes, not {wanted}"]
    return []


def _task_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    if "encoder_weights" in recipe.model.options and not recipe.pretrained:
        problems.append(
            "model.options.encoder_weights names weights to download; set pretrained to true, or leave it out"
        )
    if recipe.task == "segment":
        if any(c.color is None for c in recipe.classes):
            problems.append("segmentation needs a color for every class")
        if recipe.distill or recipe.patch_drop:
            problems.append("distill and patch_drop are for task classify")
    elif recipe.augment.scale != (1.0, 1.0) or recipe.loss.class_weights != "none":
        problems.append("augment.scale and loss.class_weights are for task segment")
    if recipe.loss.aux is not None and recipe.task != "segment":
        problems.append("loss.aux is for task segment")
    if recipe.patch_drop and recipe.patch_drop.full_epochs > recipe.epochs:
        problems.append(
            f"patch_drop.full_epochs {recipe.patch_drop.full_epochs} exceeds epochs {recipe.epochs}"
        )
    return problems


def _data_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    augment = recipe.augment
    if recipe.task == "segment":
        unfit = [
            k
            for k in ("policies", "area", "resize", "pad", "rotation", "mixup")
            if getattr(augment, k)
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
