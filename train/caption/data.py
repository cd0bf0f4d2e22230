"""Images with captions as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dlcv.runtime.caption.captioned_images import captioned_images
from dlcv.runtime.caption.vocabulary import Vocabulary, vocabulary_from_captions
from dlcv.runtime.errors import ImageError, InputError, RecipeError
from dlcv.runtime.images import load_pixels
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.data.batches import Batch, Dataset, PlainBatches, TrainBatches

NO_TOKEN = -1  # target after a caption's end and for unknown words; ignored by the loss


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """One split. images: uint8 (N, H, W, 3) RGB. captions: one or more per image."""

    images: Tensor
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> CaptionSet:
        """Return the first images."""
        return CaptionSet(
            images=self.images[:count], names=self.names[:count], captions=self.captions[:count]
        )

    @property
    def all_captions(self) -> list[str]:
        """All captions, image by image."""
        return [text for texts in self.captions for text in texts]


def load_captions(recipe: CaptionRecipe, root: Path, *, train: bool) -> CaptionSet:
    """Read one split of a recipe's data into memory.

    Raises:
        RecipeError: the caption file is missing or malformed, or an image is missing or unreadable.
    """
    folder = root / recipe.data.root
    try:
        found = captioned_images(folder / (recipe.data.train if train else recipe.data.test))
    except InputError as e:
        raise RecipeError(f"{recipe.data.root}: {e}") from e
    found = found[: recipe.data.train_limit] if train else found
    images = []
    for item in found:
        try:
            images.append(load_pixels(item.read(), recipe.preprocessing).pixels)
        except (ImageError, InputError) as e:
            raise RecipeError(f"{recipe.data.root}: {item.name}: {e}") from e
    return CaptionSet(
        images=torch.from_numpy(np.stack(images)),
        names=tuple(item.name for item in found),
        captions=tuple(item.captions for item in found),
    )


class CaptionData(LightningDataModule):
    """Training and validation data of a captioner, in memory.

    Batches: image int64 (B,), index in the split; tokens int64 (B, length + 1), a caption between its marks,
    followed by `pad`. Each process has its share of the batches.
    """

    def __init__(self, recipe: CaptionRecipe, root: Path) -> None:
        super().__init__()
        self.recipe = recipe
        self.train_set = load_captions(recipe, root, train=True)
        self.validation_set = load_captions(recipe, root, train=False)
        try:
            self.vocabulary = vocabulary_from_captions(
                self.train_set.all_captions, size=recipe.vocabulary
            )
        except InputError as e:
            raise RecipeError(str(e)) from e
        self._train_pairs = self._pairs(self.train_set)
        self._validation_pairs = self._pairs(self.validation_set)

    def summary_lines(self) -> list[str]:
        """Return lines on numbers of images, captions and words, and on cut captions and unknown words."""
        lines = []
        for name, split in (("training", self.train_set), ("validation", self.validation_set)):
            captions = split.all_captions
            words = [len(self.vocabulary.tokens(text)) for text in captions]
            cut = sum(count > self.recipe.decoder.length - 1 for count in words)
            unknown = sum(map(self.vocabulary.unknown_words, captions))
            lines.append(
                f"{name}: {len(split):,} images, {len(captions):,} captions of {np.mean(words):.1f} words; {cut:,} are cut to "
                f"{self.recipe.decoder.length - 1}, {unknown:,} words are not in the vocabulary of {len(self.vocabulary):,}"
            )
        return lines

    def train_dataloader(self) -> Any:
        """Return the batches of this epoch. The trainer calls this for every epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return TrainBatches(
            dataset=self._train_pairs,
            batch=self.recipe.batch,
            augment=_AsItIs(),
            seed=self.recipe.seed,
            epoch=epoch,
            **self._share(),
        )

    def val_dataloader(self) -> Any:
        return PlainBatches(
            dataset=self._validation_pairs, batch=self.recipe.batch, **self._share()
        )

    def _pairs(self, split: CaptionSet) -> Dataset:
        """Return a data set whose `images` are image indices, one for each caption."""
        numbers = [number for number, texts in enumerate(split.captions) for _ in texts]
        rows = [
            token_row(self.vocabulary, text, length=self.recipe.decoder.length)
            for text in split.all_captions
        ]
        return Dataset(images=torch.tensor(numbers), labels=torch.tensor(rows))

    def _share(self) -> dict[str, int]:
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world": trainer.world_size} if trainer else {}


def token_row(vocabulary: Vocabulary, text: str, *, length: int) -> list[int]:
    """Return a caption between its marks, padded to `length` + 1 tokens. A longer one is cut and has no end mark."""
    row = [vocabulary.start, *vocabulary.tokens(text), vocabulary.end][: length + 1]
    return row + [vocabulary.pad] * (length + 1 - len(row))


def targets_from_tokens(tokens: Tensor, unsaid: Sequence[int]) -> Tensor:
    """Return the training target after each token but the last: the next token, or NO_TOKEN for unsaid marks."""
    following = tokens[:, 1:]
    hidden = torch.isin(following, torch.tensor(unsaid, device=tokens.device))
    return torch.where(hidden, NO_TOKEN, following)


class _AsItIs:
    """The identity: see `dlcv.train.data.batches.Augment`."""

    copies = 1

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, copy: Tensor
    ) -> Batch:
        return images, labels
