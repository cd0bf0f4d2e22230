"""A checkpoint: a folder with `model.safetensors`, `recipe.yaml` and `metrics.json`; for captioners, also a tokenizer.

Of a `py:` network it also holds a copy of the Python file, which is run when the checkpoint is loaded.

It is sufficient to rebuild the network, without data or pretrained weights. Lightning's `.ckpt` beside it is
used only to resume a run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, overload

import msgspec
from safetensors.torch import save_file

from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.train.recipe import (
    AnyRecipe,
    RunRecipe,
    load_recipe,
    portable,
    with_network_in,
    yaml_from_recipe,
)
from dlcv.train.tasks import task_kind
from dlcv.train.weights import HEAD, load_backbone, load_weights, load_without_head, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dlcv.train.models import ModelSpec

WEIGHTS_FILE = "model.safetensors"
RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
_FILES = (WEIGHTS_FILE, RECIPE_FILE, METRICS_FILE)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Generic[AnyRecipe]):
    """A trained network in evaluation mode, with its recipe and metrics.

    model: takes normalised float32 images (B, 3, H, W); normalisation is `recipe.normalization`. The task
        defines the output (`dlcv.train.tasks`): classifiers give logits (B, classes), segmenters `{"out":
        logits (B, classes, H, W)}`.
    metrics: as measured on the validation or test set; values are numbers or {class: number}.
    """

    path: Path
    model: nn.Module
    recipe: AnyRecipe
    metrics: dict[str, Any]


def save_checkpoint(
    folder: str | Path,
    model: nn.Module,
    *,
    recipe: RunRecipe,
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a checkpoint's three files to a folder, each atomically.

    files: further files of the task, by name. An older checkpoint is replaced; other files in the folder stay, also a
    `recipe.yaml` that says the same in other words.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".checkpoint-", dir=folder))
    except OSError as e:
        raise OutputError(f"cannot write a checkpoint to {folder}: {e.strerror or e}") from e
    try:
        save_file(state, temporary / WEIGHTS_FILE, metadata={"recipe": recipe.name})
        (temporary / RECIPE_FILE).write_text(_recipe_text(folder, recipe), encoding="utf-8")
        encoded = msgspec.json.format(msgspec.json.encode(dict(metrics)), indent=2)
        (temporary / METRICS_FILE).write_bytes(encoded + b"\n")
        for name, data in (files or {}).items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)
        for name in (*(files or ()), *_FILES):
            (temporary / name).chmod(0o644)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(folder / name)
    except OSError as e:
        raise OutputError(f"cannot write a checkpoint to {folder}: {e.strerror or e}") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@overload
def load_checkpoint(folder: str | Path) -> Checkpoint[RunRecipe]: ...
@overload
def load_checkpoint(folder: str | Path, kind: type[AnyRecipe]) -> Checkpoint[AnyRecipe]: ...
def load_checkpoint(folder: str | Path, kind: type[RunRecipe] = RunRecipe) -> Checkpoint[Any]:
    """Rebuild a network from a checkpoint folder, on the CPU, in evaluation mode.

    kind: the class that its recipe must have, for callers that support only one task.

    Raises:
        RecipeError: a file is missing or damaged, the weights do not fit the recipe's model, or its task is of
            another kind.
    """
    folder = Path(folder)
    for name in _FILES:
        if not (folder / name).is_file():
            raise RecipeError(
                f"{folder} is not a checkpoint: it has no {name} (a checkpoint is a folder of"
                f" {', '.join(_FILES)})"
            )
    recipe = load_recipe(folder / RECIPE_FILE, kind)
    spec = _loaded_network(folder, recipe)
    recipe = portable(recipe)
    try:
        metrics = msgspec.json.decode((folder / METRICS_FILE).read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise RecipeError(f"{folder / METRICS_FILE} is not a JSON object: {e}") from e
    return Checkpoint(path=folder, model=spec.network.eval(), recipe=recipe, metrics=metrics)


def backbone_state(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's backbone without its head, or all tensors of a weights file.

    Raises:
        RecipeError: neither, or damaged.
    """
    path = Path(path)
    if not (path / RECIPE_FILE).is_file():
        if path.is_dir():
            raise RecipeError(f"{path} is not a checkpoint: it has no {RECIPE_FILE}")
        return read_weights(path)
    spec = _loaded_network(path, load_recipe(path / RECIPE_FILE))
    state = spec.backbone.state_dict()
    return {k: v for k, v in state.items() if not (spec.head and k.startswith(spec.head))}


def _loaded_network(folder: Path, recipe: RunRecipe) -> ModelSpec:
    spec = task_kind(recipe.task).network(_with_own_file(folder, recipe))
    weights = folder / WEIGHTS_FILE
    load_weights(spec.network, read_weights(weights), source=str(weights))
    return spec


def _with_own_file(folder: Path, recipe: RunRecipe) -> RunRecipe:
    """Return a checkpoint's recipe with its `py:` network in the checkpoint's folder, whatever lies elsewhere.

    Raises:
        RecipeError: the folder does not hold the file.
    """
    file = recipe.model.python_file
    if file is not None and not (folder / file.name).is_file():
        raise RecipeError(
            f"{folder} has no {file.name}, by which its network is built; copy the file that it was trained with there"
        )
    return with_network_in(recipe, folder)


def _recipe_text(folder: Path, recipe: RunRecipe) -> str:
    """Return a recipe as YAML: the text that lies in the folder already, if it says the same."""
    try:
        if portable(load_recipe(folder / RECIPE_FILE)) == portable(recipe):
            return (folder / RECIPE_FILE).read_text(encoding="utf-8")
    except RecipeError:  # there is none
        pass
    return yaml_from_recipe(portable(recipe))


def load_run(
    spec: ModelSpec,
    path: str | Path,
    *,
    key: str | None = None,
    on_note: Callable[[str], object] = lambda _: None,
) -> list[str]:
    """Load the backbone of a run, or a weights file, into a model, without its head.

    Return the tensors that keep their values. key, on_note: see `load_backbone`.

    Raises:
        RecipeError: it is neither, or does not fit.
    """
    path = Path(path)
    if path.is_dir() and not spec.network_head:
        return load_without_head(spec, backbone_state(path), source=str(path))
    file = path / WEIGHTS_FILE if path.is_dir() else path
    without = (HEAD,) if spec.head or spec.network_head else ()
    return load_backbone(spec, file, allow_missing=without, key=key, on_note=on_note)
