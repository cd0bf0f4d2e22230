"""The LightningModules of supervised training. Lightning runs the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn
from torchmetrics import MeanMetric

from dlcv.runtime.errors import RecipeError
from dlcv.train.data.batches import IGNORE_LABEL, Batch
from dlcv.train.losses import distillation_loss
from dlcv.train.metrics import (
    confusion_matrix_for,
    logits_of,
    metrics_from_confusion,
    predictions_from_outputs,
)
from dlcv.train.models import ModelSpec
from dlcv.train.models.spec import BACKBONE, backbone_names
from dlcv.train.optim import optimizer_for, schedule_for
from dlcv.train.recipe import AnyRecipe, Recipe
from dlcv.train.settings import Normalization


def normalised(images: Tensor, normalization: Normalization) -> Tensor:
    """Return float32 (B, 3, H, W), channels last in memory, of uint8 images (B, H, W, 3)."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    mean = pixels.new_tensor(normalization.mean)[:, None, None]
    std = pixels.new_tensor(normalization.std)[:, None, None]
    return (pixels - mean) / std


@dataclass(frozen=True, kw_only=True)
class MixedLabels:
    """Labels (B,) of mixed images: `share` of each image is of `labels`, the rest of `partners`; None: unmixed."""

    labels: Tensor
    partners: Tensor | None = None
    share: float = 1.0


def mixed_up(pixels: Tensor, labels: Tensor, *, alpha: float) -> tuple[Tensor, MixedLabels]:
    """Mix each image of a batch (B, ...) with another one of it, in one share from Beta(alpha, alpha); 0: leave them.

    Zhang et al. 2018 (https://arxiv.org/abs/1710.09412).
    """
    if not alpha:
        return pixels, MixedLabels(labels=labels)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(pixels), device=pixels.device)
    pixels = share * pixels + (1 - share) * pixels[order]
    return pixels, MixedLabels(labels=labels, partners=labels[order], share=share)


class RunModule(LightningModule, Generic[AnyRecipe]):
    """The base of all tasks' modules: freezing, seeds, the optimizer, and a stop at NaN.

    Abstract: a task adds `training_step` and `validation_step`, and fills `metrics` at the end of a validation.
    network: what a checkpoint holds. files: its further files by name, such as a tokenizer. metrics: of the
    last validation; values are numbers or {class: number}.
    """

    def __init__(self, recipe: AnyRecipe, spec: ModelSpec) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = spec.network.to(memory_format=torch.channels_last)
        self.files: dict[str, bytes] = dict(spec.files)
        self.metrics: dict[str, Any] = {}
        self._backbone = (spec.backbone,)  # in a tuple, so that it is not a submodule of its own
        self._head = spec.head
        _freeze(spec, recipe.freeze)

    def on_train_epoch_start(self) -> None:
        # Dropout and the like start every epoch from a known seed, so a resumed run is exact.
        torch.manual_seed(self.recipe.seed + 1_000 * (self.current_epoch + 1))
        if self.recipe.freeze_batch_norm:
            for module in self._backbone[0].modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def require_finite(self, loss: Tensor, step: int) -> None:
        """Stop the run if the loss is not a finite number.

        Raises:
            RecipeError: it is not.
        """
        if not math.isfinite(float(loss.detach())):
            raise RecipeError(
                f"the loss became {float(loss.detach())} in epoch {self.current_epoch}, step {step};"
                f" lower optimizer.lr ({self.recipe.optimizer.lr:g}) or set optimizer.clip_norm;"
                " the checkpoints of earlier epochs stay"
            )

    def log_step(self, scores: dict[str, Tensor], *, batch_size: int) -> None:
        """Log scores of a training step and their mean over the epoch. The progress bar shows the loss."""
        shared = self.trainer.world_size > 1
        for name, score in scores.items():
            self.log(
                name,
                score,
                prog_bar=name == "loss",
                on_step=True,
                on_epoch=True,
                batch_size=batch_size,
                sync_dist=shared,
            )

    def log_validation(self) -> None:
        """Log every number of `metrics`. They must be equal in every process, gathered by torchmetrics."""
        scores = {name: value for name, value in self.metrics.items() if isinstance(value, float)}
        self.log_dict(scores, prog_bar=True, sync_dist=self.trainer.world_size > 1)

    @property
    def learner(self) -> nn.Module:
        """What the optimizer trains: the network, and modules that only training needs, such as a projector."""
        return self.network

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_for(
            self.learner, self.recipe.optimizer, backbone=self._backbone[0], head=self._head
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = schedule_for(optimizer, self.recipe, steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class RecipeModule(RunModule[Recipe]):
    """Supervised training. Classification and segmentation differ only in the loss."""

    def __init__(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        *,
        class_weights: Tensor | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__(recipe, spec)
        self.confusion = confusion_matrix_for(recipe)
        self.validation_loss = MeanMetric(nan_strategy="disable")
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._teacher: tuple[nn.Module, ...] = (  # in a tuple as above
            (teacher.eval().to(memory_format=torch.channels_last),) if teacher else ()
        )

    def forward(self, images: Tensor) -> Any:
        """Run the network on uint8 images (B, H, W, 3)."""
        return self.network(normalised(images, self.recipe.normalization))

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._set_patch_drop()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, labels = batch
        pixels = normalised(images, self.recipe.normalization)
        pixels, mixed = mixed_up(pixels, labels, alpha=self.recipe.augment.mixup)
        outputs = self.network(pixels)
        loss = self._loss(pixels, outputs, mixed)
        self.require_finite(loss, batch_index)
        scores = {"loss": loss.detach(), "train_accuracy": _accuracy(outputs, labels)}
        self.log_step(scores, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, labels = batch
        pixels = normalised(images, self.recipe.normalization)
        outputs = self.network(pixels)
        self.confusion.update(predictions_from_outputs(outputs), labels.long())
        self.validation_loss.update(self._label_loss(outputs, labels), len(images))

    def on_validation_epoch_end(self) -> None:
        self.metrics = metrics_from_confusion(self.confusion.compute(), self.recipe)
        self.metrics["val_loss"] = float(self.validation_loss.compute())
        self.log_validation()
        self.confusion.reset()
        self.validation_loss.reset()

    def _loss(self, pixels: Tensor, outputs: Any, mixed: MixedLabels) -> Tensor:
        labels = mixed.labels
        loss = self._label_loss(outputs, labels)
        if mixed.partners is not None:
            loss = mixed.share * loss + (1 - mixed.share) * self._label_loss(
                outputs, mixed.partners
            )
        if self.recipe.loss.aux is not None:
            loss = loss + self.recipe.loss.aux * self._label_loss(_auxiliary(outputs), labels)
        if self.recipe.distill is None:
            return loss
        with torch.no_grad():
            targets = self._teacher[0](pixels).float()
        share, temperature = self.recipe.distill.weight, self.recipe.distill.temperature
        distilled = distillation_loss(outputs.float(), targets, temperature=temperature)
        return share * distilled + (1 - share) * loss

    def _label_loss(self, outputs: Any, labels: Tensor) -> Tensor:
        segments, logits = self.recipe.task == "segment", logits_of(outputs)
        return F.cross_entropy(
            logits.float(),
            labels.long(),
            weight=self.class_weights,  # type: ignore[arg-type]
            ignore_index=IGNORE_LABEL if segments else -1,
            label_smoothing=self.recipe.loss.label_smoothing,
        )

    def _set_patch_drop(self) -> None:
        """Drop random tokens (Liu et al. 2022, https://arxiv.org/abs/2208.07220), except in the last epochs."""
        config = self.recipe.patch_drop
        if config is None:
            return
        hiding = self.current_epoch < self.recipe.epochs - config.full_epochs
        drop = PatchDropout(config.rate, num_prefix_tokens=1) if hiding else nn.Identity()
        self.network.patch_drop = drop.train()


def _freeze(spec: ModelSpec, prefixes: tuple[str, ...]) -> None:
    parameters = dict(spec.network.named_parameters())
    frozen = {name for name in parameters if name.startswith(prefixes)}
    for prefix in prefixes:
        if prefix != BACKBONE and not any(name.startswith(prefix) for name in parameters):
            children = ", ".join(name for name, _ in spec.network.named_children())
            raise RecipeError(
                f"freeze: no parameter of the network begins with {prefix!r}; its parts are {BACKBONE} and"
                f" {children}"
            )
    if BACKBONE in prefixes:
        frozen |= set(backbone_names(spec))
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)
    if len(frozen) == len(parameters):
        raise RecipeError("freeze leaves no parameter to train")


def _auxiliary(outputs: Any) -> dict[str, Tensor]:
    """Return the output of the auxiliary classifier in the form of the main output."""
    if not isinstance(outputs, dict) or "aux" not in outputs:
        raise RecipeError(
            "loss.aux needs a network with an auxiliary classifier, such as deeplabv3_resnet50; or drop loss.aux"
        )
    return {"out": outputs["aux"]}


def _accuracy(outputs: Any, labels: Tensor) -> Tensor:
    """Return the share of correct labels among those that are not ignored."""
    right = predictions_from_outputs(outputs) == labels
    return right.sum() / (labels != IGNORE_LABEL).sum().clamp(min=1)
