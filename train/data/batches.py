"""An in-memory data set and its batches.

Images stay uint8 (H, W, 3) RGB up to the network, as in a bundle's graph. All randomness of a batch comes from
one generator seeded by (seed, epoch, number). A resumed run therefore sees the same batches, whichever process
makes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader

Batch: TypeAlias = tuple[Tensor, Tensor]

IGNORE_LABEL = 255
_EPOCHS_A_SEED = 100_003  # above any number of epochs, so (seed, epoch) pairs stay distinct
_BATCHES_AN_EPOCH = 10_000_019  # and these batches


class Augment(Protocol):
    """A random change to a batch. A Protocol, so that a test can use a plain function with `copies`.

    copies: how often an epoch goes through the data set; each pass may be augmented differently.
    """

    @property
    def copies(self) -> int: ...

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, copy: Tensor
    ) -> Batch:
        """Augment a batch. images: uint8 (B, H, W, 3). copy: int64 (B,), the pass that an image belongs to."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split.

    images: uint8 (N, H, W, 3) RGB.
    labels: int64 (N,) for classification; uint8 (N, H, W), 255 to be ignored, for segmentation.
    names: of the images' files, or none.
    sizes: their (height, width) before any resize, or none.
    notes: findings about the data, as sentences.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
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
            sizes=self.sizes[chosen],
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True)
class TrainBatches:
    """The batches of one epoch: shuffled, augmented, without the last incomplete batch.

    With several copies (see `Augment`), every image occurs once in each. Of `world` processes, number `rank`
    gets every `world`-th batch; all get the same number of batches.
    """

    dataset: Dataset
    batch: int
    augment: Augment
    seed: int
    epoch: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return len(self.dataset) * self.augment.copies // self.batch // self.world

    def __getitem__(self, number: int) -> Batch:
        """Return a batch. It depends only on seed, epoch and number, not on the process."""
        number = number * self.world + self.rank
        generator = self._generator(number + 1)
        drawn = self._order[number * self.batch : (number + 1) * self.batch]
        chosen = drawn % len(self.dataset)
        images, labels = self.dataset.images[chosen], self.dataset.labels[chosen]
        return self.augment(images, labels, generator, drawn // len(self.dataset))

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(len(self)))

    @cached_property
    def _order(self) -> Tensor:
        count = len(self.dataset) * self.augment.copies
        return torch.randperm(count, generator=self._generator(0))

    def _generator(self, number: int) -> torch.Generator:
        return generator_for(self.seed, epoch=self.epoch, number=number)


def generator_for(seed: int, *, epoch: int, number: int) -> torch.Generator:
    """Return the random generator of a batch. It depends only on seed, epoch and batch number."""
    mixed = (seed * _EPOCHS_A_SEED + epoch) * _BATCHES_AN_EPOCH + number
    return torch.Generator().manual_seed(mixed % 2**63)


def prefetched(batches: TrainBatches, *, workers: int) -> DataLoader[Batch]:
    """Make batches in worker processes, two ahead per worker, in the same order as without workers."""
    pinned = torch.cuda.is_available()
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pinned)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class PlainBatches:
    """The whole split in order, without augmentation. Of `world` processes, `rank` gets every `world`-th batch."""

    dataset: Dataset
    batch: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return len(range(self.rank, math.ceil(len(self.dataset) / self.batch), self.world))

    def __iter__(self) -> Iterator[Batch]:
        images = torch.split(self.dataset.images, self.batch)
        batches = zip(images, torch.split(self.dataset.labels, self.batch), strict=True)
        yield from islice(batches, self.rank, None, self.world)
