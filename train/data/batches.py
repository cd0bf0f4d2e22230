"""A data set in memory and the batches made of it.

Images stay uint8 (H, W, 3) RGB up to the network, as in a bundle's graph. Every random choice of an
epoch comes from one generator seeded by (seed, epoch), so a resumed run sees what it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = tuple[Tensor, Tensor]
Augment: TypeAlias = Callable[[Tensor, Tensor, torch.Generator], Batch]

IGNORE_LABEL = 255
_EPOCHS_A_SEED = 100_003  # a prime above any number of epochs keeps (seed, epoch) pairs apart


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split.

    images: uint8 (N, H, W, 3) RGB.
    labels: int64 (N,) for classification; uint8 (N, H, W), 255 to be ignored, for segmentation.
    names: of the images' files, or none. notes: what a person should know about the data, in sentences.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")
        if self.names and len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice) -> Dataset:
        return Dataset(
            images=self.images[chosen],
            labels=self.labels[chosen],
            names=self.names[chosen],
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True)
class TrainBatches:
    """One epoch: shuffled, augmented, the last incomplete batch left out."""

    dataset: Dataset
    batch: int
    augment: Augment
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.dataset) // self.batch

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed * _EPOCHS_A_SEED + self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        for chosen in torch.split(order, self.batch)[: len(self)]:
            yield self.augment(self.dataset.images[chosen], self.dataset.labels[chosen], generator)


@dataclass(frozen=True, kw_only=True)
class PlainBatches:
    """The whole split in order, as it is."""

    dataset: Dataset
    batch: int

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch)

    def __iter__(self) -> Iterator[Batch]:
        images = torch.split(self.dataset.images, self.batch)
        yield from zip(images, torch.split(self.dataset.labels, self.batch), strict=True)
