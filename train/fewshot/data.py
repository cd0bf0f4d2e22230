"""Images in class folders, split by class, and the training episodes drawn from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.evaluate.labelled import LabelledImage
from dlcv.runtime.fewshot.episodes import EpisodeConfig, EpisodeSampler
from dlcv.runtime.fewshot.support import class_files, lies_in
from dlcv.runtime.images.archives import Readers, files_in
from dlcv.train.data.augment import Classify
from dlcv.train.data.batches import Dataset, PlainBatches, generator_for
from dlcv.train.data.decode import decoded
from dlcv.train.fewshot.recipe import EpisodeData, FewShotRecipe
from dlcv.train.settings import AugmentConfig

Split: TypeAlias = Literal["train", "validation", "test"]

EMBEDDED_AT_ONCE = 256
_TURNS = 4
_AUGMENT_STREAM = -1  # augmentation has its own seed, separate from that of the drawing


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """The images of one split and the names of its classes. An image's label is the index of its class there."""

    images: Dataset
    classes: tuple[str, ...]

    def sampler(self, config: EpisodeConfig, *, split: str, seed: int) -> EpisodeSampler:
        """Return an episode sampler of the split. split: its name, for the error message.

        Raises:
            RecipeError: it has fewer classes or images than an episode takes.
        """
        try:
            return EpisodeSampler(self.images.labels.numpy(), config, names=self.classes, seed=seed)
        except InputError as e:
            raise RecipeError(f"{split}: {e}") from e


def load_split(recipe: FewShotRecipe, root: Path, *, split: Split) -> ClassSplit:
    """Load one split into memory, with the recipe's preprocessing.

    Raises:
        RecipeError: there are no such folders, a class is in two splits, or an image cannot be read.
    """
    try:
        files = files_in(root / recipe.data.root)
        classes = _classes_of(files, recipe.data, split=split)
        names = tuple(classes)
        items = [
            LabelledImage(name=file, read=files[file], label=label)
            for label, name in enumerate(names)
            for file in classes[name]
        ]
        images = decoded(items, preprocessing=recipe.preprocessing)
    except InputError as e:
        raise RecipeError(f"data.{split}: {e}") from e
    turned = recipe.data.rotations
    return _with_rotations(images, names) if turned else ClassSplit(images=images, classes=names)


def _classes_of(files: Readers, data: EpisodeData, *, split: Split) -> dict[str, list[str]]:
    """Return the images of each class folder of a split, by the folder's path."""
    folders = class_files(files)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    for folder in folders:
        inside = [key for key, wanted in parts.items() if lies_in(folder, wanted)]
        if len(inside) > 1:
            raise InputError(f"class {folder} is in data.{inside[0]} and in data.{inside[1]}")
    for part in parts[split]:
        if not any(lies_in(folder, (part,)) for folder in folders):
            raise InputError(f"{data.root} has no images in a folder {part!r}")
    return {f: images for f, images in folders.items() if lies_in(f, parts[split])}


def _with_rotations(images: Dataset, names: tuple[str, ...]) -> ClassSplit:
    """Add each class rotated by 90, 180 and 270 degrees as further classes."""
    turned = [torch.rot90(images.images, turns, dims=(1, 2)) for turns in range(_TURNS)]
    labels = [images.labels + turns * len(names) for turns in range(_TURNS)]
    degrees = [f" turned by {90 * turns}" if turns else "" for turns in range(_TURNS)]
    return ClassSplit(
        images=Dataset(
            images=torch.cat(turned),
            labels=torch.cat(labels),
            names=tuple(f"{file}{text}" for text in degrees for file in images.names),
        ),
        classes=tuple(f"{name}{text}" for text in degrees for name in names),
    )


@dataclass(frozen=True, kw_only=True)
class EpisodeBatches:
    """The steps of one epoch, each uint8 (batch, ways, shots + queries, H, W, 3), support first.

    Of `world` processes, number `rank` gets every `world`-th step.
    """

    split: ClassSplit
    sampler: EpisodeSampler
    batch: int
    epoch: int
    augment: AugmentConfig | None = None
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return self.sampler.config.episodes // self.batch // self.world

    def __getitem__(self, number: int) -> Tensor:
        """Return a step. It depends only on seed, epoch and number."""
        first = (number * self.world + self.rank) * self.batch
        drawn = [
            self.sampler.drawn(episode, epoch=self.epoch)
            for episode in range(first, first + self.batch)
        ]
        indices = torch.from_numpy(np.stack(drawn))
        images = self._changed(self.split.images.images[indices.flatten()], number=first)
        return images.reshape(*indices.shape, *images.shape[1:])

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def _changed(self, images: Tensor, *, number: int) -> Tensor:
        if self._change is None:
            return images
        generator = generator_for(self.seed + _AUGMENT_STREAM, epoch=self.epoch, number=number)
        copies = torch.zeros(len(images), dtype=torch.int64)
        changed, _ = self._change(images, copies, generator, copies)
        return changed

    @cached_property
    def _change(self) -> Classify | None:
        return Classify(self.augment) if self.augment is not None else None


class FewShotData(LightningDataModule):
    """Training classes and validation classes, in memory. The validation score chooses the checkpoint."""

    def __init__(self, recipe: FewShotRecipe, root: Path) -> None:
        super().__init__()
        self.recipe = recipe
        self.train_split = load_split(recipe, root, split="train")
        self.validation_split = load_split(recipe, root, split="validation")
        seed = recipe.seed
        self.sampler = self.train_split.sampler(recipe.training, split="training", seed=seed)
        chosen = self.validation_split.sampler(recipe.validation, split="validation", seed=seed)
        self.validation_episodes = tuple(chosen)

    def summary_lines(self) -> list[str]:
        """Return one line per split: its images and classes, and how many of them an episode takes."""
        splits = {
            "training": (self.train_split, self.recipe.training),
            "validation": (self.validation_split, self.recipe.validation),
        }
        return [_summary(name, *parts) for name, parts in splits.items()]

    def train_dataloader(self) -> Any:
        """Return the steps of this epoch. The trainer calls this for every epoch."""
        return EpisodeBatches(
            split=self.train_split,
            sampler=self.sampler,
            batch=self.recipe.batch,
            epoch=self.trainer.current_epoch if self.trainer else 0,
            augment=self.recipe.augment,
            seed=self.recipe.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=self.trainer.world_size if self.trainer else 1,
        )

    def val_dataloader(self) -> Any:
        """Return all validation images, each once. Every process scores all episodes."""
        return PlainBatches(dataset=self.validation_split.images, batch=EMBEDDED_AT_ONCE)


def _summary(name: str, split: ClassSplit, config: EpisodeConfig) -> str:
    counts = Counter(split.images.labels.tolist()).values()
    per_class = f"{min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")
    return (
        f"{name}: {len(split.images):,} images of {len(split.classes):,} classes ({per_class} each);"
        f" {config.episodes:,} episodes of {config.ways} classes, {config.shots} + {config.queries} images"
    )
