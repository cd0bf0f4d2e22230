"""The parts of a few-shot training run."""

from __future__ import annotations

from dlcv.train.fewshot.data import FewShotData
from dlcv.train.fewshot.evaluate import evaluate
from dlcv.train.fewshot.module import FewShotModule
from dlcv.train.fewshot.network import network_from_recipe
from dlcv.train.tasks import TaskKind

FEWSHOT = TaskKind(
    monitor="accuracy",
    network=network_from_recipe,
    data=FewShotData,
    module=FewShotModule,
    evaluate=evaluate,
)
