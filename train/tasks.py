"""The parts of a training run by task, in a dict, imported on use.

Runs of all tasks share the same steps (`dlcv.train.fit`) and differ in these parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dlcv.runtime.errors import RecipeError

if TYPE_CHECKING:
    from dlcv.train.models import ModelSpec

TASKS = {
    "classify": "dlcv.train.supervised:CLASSIFY",
    "segment": "dlcv.train.supervised:SEGMENT",
    "byol": "dlcv.train.byol.task:BYOL",
    "fewshot": "dlcv.train.fewshot.task:FEWSHOT",
    "caption": "dlcv.train.caption.module:CAPTION",
}


class RunData(Protocol):
    """A LightningDataModule that can also summarise its data before a long run.

    A Protocol, because Lightning's class cannot be made abstract.
    """

    def train_dataloader(self) -> Any: ...
    def summary_lines(self) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """The parts of a run. Each takes a recipe of the task's own class.

    monitor: the score that selects checkpoints, a key of the metrics; higher is better.
    network: recipe to a freshly built network, as in a checkpoint.
    data: (recipe, data root) to the training and validation data.
    module: (recipe, network, data) to a `dlcv.train.modules.RunModule`.
    evaluate: (checkpoint, data root) to its metrics on the test images, for `metrics.json`.
    """

    monitor: str
    network: Callable[[Any], ModelSpec]
    data: Callable[[Any, Path], RunData]
    module: Callable[[Any, ModelSpec, Any], Any]
    evaluate: Callable[[Any, Path], dict[str, Any]]


def task_kind(task: str) -> TaskKind:
    """Return the parts of a task, by its name in a recipe.

    Raises:
        RecipeError: no such task.
    """
    if task not in TASKS:
        raise RecipeError(f"no task {task!r}; tasks: {', '.join(TASKS)}")
    module, _, name = TASKS[task].partition(":")
    kind: TaskKind = getattr(import_module(module), name)
    return kind
