"""The LightningModule of a captioner, and the parts of its training run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from dlcv.runtime.caption.vocabulary import TOKENIZER_FILE
from dlcv.train.caption.data import NO_TOKEN, CaptionData, CaptionSet, targets_from_tokens
from dlcv.train.caption.encoder import build_encoder, feature_shape
from dlcv.train.caption.evaluate import (
    caption_scores,
    captions_from_features,
    evaluate_captions,
    remembered,
)
from dlcv.train.caption.network import CaptionDecoder, Captioner
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.data.batches import Batch
from dlcv.train.models import ModelSpec
from dlcv.train.modules import RunModule, normalised
from dlcv.train.tasks import TaskKind


class CaptionModule(RunModule[CaptionRecipe]):
    """Trains next-word prediction, given the image and the preceding words."""

    def __init__(self, recipe: CaptionRecipe, spec: ModelSpec, data: CaptionData) -> None:
        super().__init__(recipe, spec)
        self.files = {TOKENIZER_FILE: data.vocabulary.to_json()}
        self.validation_loss = MeanMetric(nan_strategy="disable")
        self._data = data
        # Features of training (True) and validation images, if the encoder does not change.
        self._known: dict[bool, Tensor] = {}

    def on_fit_start(self) -> None:
        if self.recipe.encodes_once:
            sets = {True: self._data.train_set, False: self._data.validation_set}
            self._known = {train: self._encoded(split.images) for train, split in sets.items()}

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.recipe.encodes_once:
            self._encoder.eval()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, tokens = batch
        features = self._features(images, train=True)
        loss = self._loss(features, tokens, smoothing=self.recipe.label_smoothing)
        self.require_finite(loss, batch_index)
        self.log_step({"loss": loss.detach()}, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, tokens = batch
        loss = self._loss(self._features(images, train=False), tokens)
        self.validation_loss.update(loss, len(images))

    def on_validation_epoch_end(self) -> None:
        validation, train = self._data.validation_set, self._data.train_set
        self.metrics = caption_scores(self._captions(validation, train=False), validation)
        if self.recipe.remember:
            first = train.first(self.recipe.remember)
            self.metrics["remembered"] = remembered(self._captions(first, train=True), first)
        self.metrics["val_loss"] = float(self.validation_loss.compute())
        self.log_validation()
        self.validation_loss.reset()

    def _loss(self, features: Tensor, tokens: Tensor, *, smoothing: float = 0.0) -> Tensor:
        vocabulary = self._data.vocabulary
        longest = int((tokens != vocabulary.pad).sum(dim=1).max())
        tokens = tokens[:, :longest]  # cut padding; it costs as much as words
        targets = targets_from_tokens(tokens, vocabulary.unsaid)
        decoder: Any = self.network.decoder
        logits = decoder(tokens[:, :-1], decoder.memory(features))
        return F.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=NO_TOKEN,
            label_smoothing=smoothing,
        )

    def _features(self, numbers: Tensor, *, train: bool) -> Tensor:
        """Return the features of images by their indices in the split, int64 (B,)."""
        if self._known:
            return self._known[train][numbers]
        split = self._data.train_set if train else self._data.validation_set
        images = split.images[numbers.cpu()].to(self.device)
        features: Tensor = self._encoder(normalised(images, self.recipe.normalization))
        return features

    @property
    def _encoder(self) -> Any:
        return self.network.encoder

    def _encoded(self, images: Tensor) -> Tensor:
        """Return the features of a whole split, for encoders that do not change."""
        encoder = self._encoder.eval()
        with torch.no_grad():
            parts = [
                encoder(normalised(batch.to(self.device), self.recipe.normalization))
                for batch in torch.split(images, self.recipe.batch)
            ]
        encoder.train()
        return torch.cat(parts)

    def _captions(self, split: CaptionSet, *, train: bool) -> list[str]:
        """Return greedy captions of the first images of a split."""
        network: Any = self.network
        texts: list[str] = []
        for numbers in torch.split(torch.arange(len(split)), self.recipe.batch):
            features = self._features(numbers, train=train)
            found = captions_from_features(network, features, vocabulary=self._data.vocabulary)
            texts += map(self._data.vocabulary.text, found.tokens)
        return texts


def _network(recipe: CaptionRecipe) -> ModelSpec:
    spec = build_encoder(recipe.model)
    channels, grid = feature_shape(spec.network, recipe.preprocessing.size)
    decoder = CaptionDecoder(
        recipe.decoder, vocabulary=recipe.vocabulary, channels=channels, grid=grid
    )
    return replace(spec, network=Captioner(spec.network, decoder))


CAPTION = TaskKind(
    monitor="cider",
    network=_network,
    data=CaptionData,
    module=CaptionModule,
    evaluate=evaluate_captions,
)
