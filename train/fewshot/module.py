"""The LightningModule of prototypical networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlcv.runtime.fewshot.episode_accuracy import score_episodes
from dlcv.runtime.fewshot.episodes import Episode
from dlcv.train.data.batches import Batch
from dlcv.train.fewshot.data import FewShotData
from dlcv.train.fewshot.distance import distance_on_arrays
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.models import ModelSpec
from dlcv.train.modules import RunModule, normalised


class FewShotModule(RunModule[FewShotRecipe]):
    """Classifies the queries of an episode by the nearest prototype (Snell et al. 2017, algorithm 1)."""

    def __init__(self, recipe: FewShotRecipe, spec: ModelSpec, data: FewShotData) -> None:
        super().__init__(recipe, spec)
        self._episodes: tuple[Episode, ...] = data.validation_episodes
        self._embedded: list[Tensor] = []

    @property
    def _distance(self) -> nn.Module:
        return cast("nn.Module", self.network.distance)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """batch: uint8 (episodes, ways, shots + queries, H, W, 3)."""
        episodes, ways, count = batch.shape[:3]
        pixels = normalised(batch.flatten(0, 2), self.recipe.normalization)
        embeddings = self.network(pixels).unflatten(0, (episodes, ways, count))
        shots = self.recipe.training.shots
        prototypes = embeddings[:, :, :shots].mean(dim=2)  # (episodes, ways, D)
        queries = embeddings[:, :, shots:].flatten(1, 2)  # (episodes, ways * queries, D)
        pairs = zip(queries, prototypes, strict=True)
        scores = torch.cat([self._distance(query, means) for query, means in pairs]).float()
        labels = torch.arange(ways, device=scores.device).repeat_interleave(count - shots)
        labels = labels.repeat(episodes)
        loss = F.cross_entropy(scores, labels)
        self.require_finite(loss, batch_index)
        right = (scores.argmax(dim=1) == labels).float().mean()
        self.log_step({"loss": loss.detach(), "train_accuracy": right}, batch_size=episodes)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Embed images. Episodes are scored once all images are embedded."""
        self._embedded.append(self.network(normalised(batch[0], self.recipe.normalization)).float())

    def on_validation_epoch_end(self) -> None:
        embeddings = torch.cat(self._embedded).cpu().numpy()
        self._embedded.clear()
        distance = distance_on_arrays(self._distance, device=self.device)
        score = score_episodes(embeddings, self._episodes, distance=distance)
        self.metrics = {
            "accuracy": score.accuracy,
            "interval": score.interval,
            "val_loss": score.loss,
        }
        self.log_validation()
