"""A split that is decoded when its images are needed, because it does not fit into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.data.batches import Batch, Dataset
from dlcv.train.data.decode import decoded

if TYPE_CHECKING:
    from dlcv.runtime.bundle.schema import Preprocessing
    from dlcv.runtime.evaluate.labelled import LabelledImage
    from dlcv.runtime.images.label_masks import MaskCoding

Listing: TypeAlias = "Callable[[], Sequence[LabelledImage]]"

_AT_ONCE = 256  # images in memory, where all are gone through


@dataclass(frozen=True, kw_only=True)
class StreamedDataset:
    """One split, decoded image by image with the same preprocessing as in memory.

    listing: lists the images again, in a worker process: an open archive cannot be shared with it. what: the split, for
    messages.
    """

    listing: Listing
    preprocessing: Preprocessing
    coding: MaskCoding | None
    what: str
    _listed: dict[int, Sequence[LabelledImage]] = field(default_factory=dict)  # by process

    @property
    def items(self) -> Sequence[LabelledImage]:
        """The images, not decoded."""
        process = os.getpid()
        if process not in self._listed:
            before = next(iter(self._listed.values()), None)
            is_shareable = before is not None and all(map(_is_file, before))
            self._listed[process] = before if before and is_shareable else self.listing()
        return self._listed[process]

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_listed": {}}  # readers of archives cannot be sent to a process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getitem__(self, chosen: slice) -> StreamedDataset:
        return StreamedDataset(
            listing=partial(_part, self, chosen),
            preprocessing=self.preprocessing,
            coding=self.coding,
            what=self.what,
        )

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images after preprocessing.

        Raises:
            RecipeError: the first image cannot be read.
        """
        if self.preprocessing.resize != "longest_side":
            return self.preprocessing.size
        height, width = self._decoded(self.items[:1]).size
        return height, width

    @cached_property
    def labels(self) -> Tensor:
        """The labels of a classifier's images, int64 (N,). Masks come with `batch` and `chunks` only."""
        if self.coding is not None:
            raise TypeError("masks are not in memory; go through chunks()")
        return torch.tensor([item.label for item in self.items])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images' files."""
        return tuple(item.name for item in self.items)

    @property
    def size_bytes(self) -> int:
        """The memory that the split would take, images and masks."""
        height, width = self.size
        return len(self) * height * width * (3 if self.coding is None else 4)

    def batch(self, chosen: Tensor | slice) -> Batch:
        """Return images, uint8 (B, H, W, 3), and labels of the rows that are chosen.

        Raises:
            RecipeError: an image cannot be read, or is of another size than the first.
        """
        numbers = range(len(self))[chosen] if isinstance(chosen, slice) else chosen.tolist()
        found = self._decoded([self.items[number] for number in numbers])
        if found.size != self.size:
            raise RecipeError(
                f"{self.what}: after preprocessing {found.names[0]} is {found.size}, {self.items[0].name} {self.size};"
                " one size is needed: set preprocessing.resize to stretch or center_crop"
            )
        return found.images, found.labels

    def chunks(self) -> Iterator[Dataset]:
        """Yield the split in order, in parts that fit into memory."""
        for start in range(0, len(self), _AT_ONCE):
            yield self._decoded(self.items[start : start + _AT_ONCE])

    def in_memory(self) -> Dataset:
        """Return the split, decoded once and kept.

        Raises:
            RecipeError: an image cannot be read.
        """
        return self._decoded(self.items)

    def _decoded(self, items: Sequence[LabelledImage]) -> Dataset:
        try:
            return decoded(items, preprocessing=self.preprocessing, coding=self.coding)
        except InputError as e:
            raise RecipeError(f"{self.what}: {e}") from e


AnyDataset: TypeAlias = Dataset | StreamedDataset


def _is_file(item: LabelledImage) -> bool:
    """Return whether an image is read from a file of its own, by its name."""
    reads = [item.read, *([item.read_mask] if item.read_mask else [])]
    return all(isinstance(getattr(read, "__self__", None), Path) for read in reads)


def _part(dataset: StreamedDataset, chosen: slice) -> Sequence[LabelledImage]:
    return dataset.items[chosen]
