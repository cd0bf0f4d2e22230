"""Measures the overhead of `dlcv-train fit` over a bare loop with the same network and tensors. The limit is 10 %.

Epochs of both alternate, so that a noisy machine slows both; the printed ratio is the median over rounds. fit
reads, augments and logs as in a real run (without validation and checkpoints); the bare loop takes ready
batches from memory.

    pytest bench/bench_training.py -s
"""

import copy
import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from dlcv.train.data.augment import augment_for
from dlcv.train.data.batches import TrainBatches
from dlcv.train.data.module import RecipeData
from dlcv.train.models import build_model
from dlcv.train.modules import RecipeModule, normalised
from dlcv.train.recipe import Recipe, changed, load_recipe

ROOT = Path(os.environ.get("DLCV_DATA") or Path(__file__).parents[2] / "shared" / "data")
STEPS = {"cifar10-basic-cnn": 12, "cifar10-vit": 12, "deepglobe-fcn4s-mobilenet": 4}
ROUNDS = 4


class Turns(Callback):
    """Runs an epoch of the bare loop after each epoch of fit. `fit` and `bare` are seconds per step."""

    def __init__(self, recipe: Recipe, network: torch.nn.Module, data: RecipeData) -> None:
        self.recipe, self.network = recipe, network
        batches = TrainBatches(
            dataset=data.train_set, batch=recipe.batch, augment=augment_for(recipe), seed=0, epoch=0
        )
        self.batches = [batches[number] for number in range(STEPS[recipe.name])]
        self.fit: list[float] = []
        self.bare: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        # The first batch of an epoch waits for the workers to start, once in hundreds of steps.
        if batch_idx == 1:
            self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.fit.append((time.perf_counter() - self.started) / (len(self.batches) - 1))
        started = time.perf_counter()
        self._bare_epoch()
        self.bare.append((time.perf_counter() - started) / len(self.batches))

    def _bare_epoch(self) -> None:
        optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-6)
        for images, labels in self.batches:
            outputs = self.network(normalised(images, self.recipe.normalization))
            logits = outputs["out"] if isinstance(outputs, dict) else outputs
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @property
    def ratio(self) -> float:
        """The median ratio of the rounds after the first, which is warm-up."""
        pairs = zip(self.fit[1:], self.bare[1:], strict=True)
        return statistics.median(fit / bare for fit, bare in pairs)


@pytest.mark.parametrize("name", STEPS)
def bench_training(benchmark: Any, name: str, tmp_path: Path) -> None:
    """Print the seconds of a step and the ratio, fit / bare loop."""
    torch.set_num_threads(1)  # several threads wait for each other on a shared machine
    recipe = changed(load_recipe(name, Recipe), epochs=ROUNDS)
    data = RecipeData(recipe, ROOT)
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=len(recipe.classes))
    network = copy.deepcopy(spec.network).to(memory_format=torch.channels_last).train()
    turns = Turns(recipe, network, data)
    trainer = Trainer(
        max_epochs=ROUNDS,
        devices=1,
        limit_train_batches=STEPS[name],
        limit_val_batches=0,
        gradient_clip_val=recipe.optimizer.clip_norm,
        reload_dataloaders_every_n_epochs=1,
        logger=CSVLogger(tmp_path, name="log"),
        log_every_n_steps=1,
        callbacks=[turns],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    benchmark.pedantic(lambda: trainer.fit(RecipeModule(recipe, spec), data), rounds=1)
    benchmark.extra_info["ratio"] = turns.ratio
    steps = [statistics.median(seconds) * 1e3 for seconds in (turns.fit[1:], turns.bare[1:])]
    print(
        f"\n{name}: a step of fit {steps[0]:.1f} ms, bare {steps[1]:.1f} ms; ratio {turns.ratio:.3f}"
    )
