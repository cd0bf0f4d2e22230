"""An in-memory data set, and batches of it or of one that is streamed from disk.

Images stay uint8 (H, W, 3) RGB up to the network, as in a bundle's graph. All randomness of a batch comes from
one generator seeded by (seed, epoch, number). A resumed run therefore sees the same batches, whichever process
makes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dlcv.runtime.errors import UserError
from dlcv.runtime.machine.system import cpu_count

Batch: TypeAlias = tuple[Tensor, Tensor]

IGNORE_LABEL = 255
_EPOCHS_A_SEED = 100_003  # above any number of epochs, so (seed, epoch) pairs stay distinct
_MOST_WORKERS = 8
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


class Rows(Protocol):
    """Images and labels of which batches are made: a `Dataset`, or one that decodes them when asked."""

    def __len__(self) -> int: ...

    def batch(self, chosen: Tensor | slice) -> Batch:
        """Return images, uint8 (B, H, W, 3), and labels of the rows that are chosen, by int64 numbers (B,) or a slice."""
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

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.images.shape[1], self.images.shape[2]

    def batch(self, chosen: Tensor | slice) -> Batch:
        """Return images and labels of the rows that are chosen."""
        return self.images[chosen], self.labels[chosen]

    def chunks(self) -> Iterator[Dataset]:
        """Yield the data set in parts that fit into memory: itself."""
        yield self

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

    dataset: Rows
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
        images, labels = self.dataset.batch(chosen)
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


@dataclass(frozen=True, kw_only=True)
class PlainBatches:
    """The whole split in order, without augmentation. Of `world` processes, `rank` gets every `world`-th batch."""

    dataset: Rows
    batch: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return len(range(self.rank, math.ceil(len(self.dataset) / self.batch), self.world))

    def __getitem__(self, number: int) -> Batch:
        start = (number * self.world + self.rank) * self.batch
        return self.dataset.batch(slice(start, min(start + self.batch, len(self.dataset))))

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(len(self)))


class Prefetched:
    """Batches made in worker processes, two ahead per worker, in the same order as without workers.

    An error about the user's data in a worker is raised here as it was there.
    """

    def __init__(self, batches: TrainBatches | PlainBatches, *, workers: int) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            _Reporting(batches),  # type: ignore[arg-type]  # it is a sequence, which suffices
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for found in self._loader:
            if isinstance(found, UserError):
                raise found
            yield found


@dataclass(frozen=True)
class _Reporting:
    """The same batches, with the error in place of a batch that cannot be made; PyTorch would wrap it in a traceback."""

    batches: TrainBatches | PlainBatches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self.batches[number]
        except UserError as e:
            return e


def stream_workers() -> int:
    """Return how many processes decode a streamed split."""
    return min(_MOST_WORKERS, cpu_count())


def prefetched(batches: TrainBatches | PlainBatches, *, workers: int) -> Prefetched:
    """Make batches in worker processes; with 0, in this one."""
    return Prefetched(batches, workers=workers)
