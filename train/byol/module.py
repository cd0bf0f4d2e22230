"""The LightningModule of BYOL: an online network, and a target network that follows it."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from dlcv.runtime.errors import RecipeError
from dlcv.train.byol.parts import decay_at, follow, mlp, regression_loss, spread
from dlcv.train.byol.probe import probe_accuracy
from dlcv.train.byol.recipe import ByolRecipe
from dlcv.train.data.batches import Batch
from dlcv.train.models import ModelSpec
from dlcv.train.modules import RunModule, normalised

COLLAPSED = 0.1  # a spread below this means that the embeddings have collapsed


class ByolModule(RunModule[ByolRecipe]):
    """Trains the online network to predict the target's projection of another view of the same image."""

    def __init__(self, recipe: ByolRecipe, spec: ModelSpec) -> None:
        super().__init__(recipe, spec)
        width = embedding_width(spec.network, recipe)
        self.projector = mlp(width, recipe.byol)
        self.predictor = mlp(recipe.byol.projection, recipe.byol)
        online = nn.Sequential(self.network, self.projector)
        self.target = copy.deepcopy(online).requires_grad_(False)
        self._online = (online,)  # in a tuple, so that the network is registered only once
        self._spread = MeanMetric()
        self._embedded: tuple[list[Batch], list[Batch]] = ([], [])

    @property
    def learner(self) -> nn.Module:
        """The modules that the optimizer trains. The target is not among them."""
        return nn.ModuleList([self.network, self.projector, self.predictor])

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        first, second = (normalised(view, self.recipe.normalization) for view in batch)
        online = self._online[0]
        projections = online(first), online(second)
        with torch.no_grad():
            targets = self.target(first), self.target(second)
        loss = regression_loss(self.predictor(projections[0]), targets[1])
        loss = loss + regression_loss(self.predictor(projections[1]), targets[0])
        self.require_finite(loss, batch_index)
        self._spread.update(spread(projections[0]))
        self.log_step({"loss": loss.detach()}, batch_size=len(first))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        steps = int(self.trainer.estimated_stepping_batches)
        decay = decay_at(self.trainer.global_step, steps=steps, config=self.recipe.byol)
        follow(self.target, self._online[0], decay=decay)

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int) -> None:
        images, labels = batch
        embeddings = self.network(normalised(images, self.recipe.normalization))
        self._embedded[dataloader_idx].append((embeddings.float(), labels.long()))

    def on_validation_epoch_end(self) -> None:
        known, asked = (_joined(batches) for batches in self._embedded)
        accuracy = probe_accuracy(
            known,
            asked,
            classes=len(self.recipe.classes),
            weight_decay=self.recipe.probe.weight_decay,
        )
        self.metrics = {"probe_accuracy": accuracy, "spread": float(self._spread.compute())}
        self.log_validation()
        self._warn_of_collapse()
        self._spread.reset()
        for batches in self._embedded:
            batches.clear()

    def _warn_of_collapse(self) -> None:
        found = self.metrics["spread"]
        if found < COLLAPSED and self.trainer.is_global_zero:
            sys.stderr.write(
                f"epoch {self.current_epoch + 1}: the representation collapses: all images are projected to"
                f" nearly one vector (spread {found:.3f} of 1, below {COLLAPSED}); lower optimizer.lr"
                f" ({self.recipe.optimizer.lr:g}), raise byol.decay ({self.recipe.byol.decay:g}) or batch"
                f" ({self.recipe.batch}), or make augment stronger\n"
            )


def embedding_width(network: nn.Module, recipe: ByolRecipe) -> int:
    """Return the width of the network's embeddings.

    Raises:
        RecipeError: it gives no vector for an image of the recipe's size.
    """
    side = recipe.augment.size
    with torch.no_grad():
        answer = network.eval()(torch.zeros(1, 3, side, side))
    network.train()
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        raise RecipeError(
            f"model {recipe.model.name} without its head gives no vector; take another network"
        )
    return answer.shape[1]


def _joined(batches: list[Batch]) -> Batch:
    return torch.cat([images for images, _ in batches]), torch.cat([rest for _, rest in batches])
