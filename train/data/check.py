"""Checks a recipe's data before a long run: class balance, sizes, suspicious images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlcv.train.data.batches import IGNORE_LABEL, Dataset
from dlcv.train.recipe import LabelledRecipe

FEW = 10  # images of a class (classify) or with the class (segment); fewer are hard to learn
_NAMED = 3  # examples per sentence


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The frequency of a class: `images` that contain it, and its `share` in 0..1 of images or pixels."""

    images: int
    share: float


def balances(dataset: Dataset, *, classes: int) -> list[Balance]:
    """Return the balance of every class. Shares exclude ignored pixels and add up to 1."""
    counts = _counts(dataset, classes=classes)[:, :classes]  # (N, classes), images or pixels
    total = max(1, int(counts.sum()))
    return [
        Balance(images=int((counts[:, c] > 0).sum()), share=int(counts[:, c].sum()) / total)
        for c in range(classes)
    ]


def summary_lines(recipe: LabelledRecipe, *, train: Dataset, validation: Dataset) -> list[str]:
    """Return one line per split, and one for each finding, for printing before a long run."""
    lines = []
    for name, dataset in (("training", train), ("validation", validation)):
        shares = [b.share for b in balances(dataset, classes=len(recipe.classes))]
        least, most = shares.index(min(shares)), shares.index(max(shares))
        lines.append(
            f"{name}: {len(dataset):,} images, {_sizes(dataset)}; {len(shares)} classes, from"
            f" {recipe.class_names[least]} {shares[least]:.1%} to {recipe.class_names[most]} {shares[most]:.1%}"
        )
    return lines + findings(recipe, train=train, validation=validation)


def findings(recipe: LabelledRecipe, *, train: Dataset, validation: Dataset) -> list[str]:
    """Return suspicious findings as sentences: readers' notes, rare classes, odd images, duplicates."""
    found = []
    for split, dataset in (("training", train), ("validation", validation)):
        about = [*dataset.notes, *_about_classes(dataset, recipe), *_about_images(dataset)]
        found += [f"{split}: {sentence}" for sentence in about]
    seen = set(_digests(train))
    leaked = [number for number, digest in enumerate(_digests(validation)) if digest in seen]
    if leaked:
        found.append(
            f"validation: {len(leaked):,} images are training images too{_such_as(validation, leaked)}"
        )
    return found


def _about_classes(dataset: Dataset, recipe: LabelledRecipe) -> list[str]:
    found = []
    rare = [
        f"{name} ({balance.images})"
        for name, balance in zip(
            recipe.class_names, balances(dataset, classes=len(recipe.classes)), strict=True
        )
        if balance.images < FEW
    ]
    if rare:
        more = ", ..." if len(rare) > _NAMED else ""
        found.append(
            f"{len(rare)} classes are in fewer than {FEW} images: {', '.join(rare[:_NAMED])}{more}"
        )
    if recipe.task == "segment":
        ignored = (dataset.labels == IGNORE_LABEL).flatten(1)
        count = int(ignored.sum())
        if count:
            found.append(f"{count:,} mask pixels are ignored, {count / ignored.numel():.2%}")
        empty = ignored.all(1).nonzero().flatten().tolist()
        if empty:
            found.append(f"{len(empty):,} masks hold nothing but ignored{_such_as(dataset, empty)}")
    return found


def _about_images(dataset: Dataset) -> list[str]:
    found = []
    plain = [number for number, image in enumerate(dataset.images) if _is_plain(image)]
    if plain:
        found.append(f"{len(plain):,} images are of one color{_such_as(dataset, plain)}")
    first: dict[bytes, int] = {}
    again: list[int] = []
    other: list[int] = []
    for number, digest in enumerate(_digests(dataset)):
        earlier = first.setdefault(digest, number)
        if earlier != number:
            same = torch.equal(dataset.labels[number], dataset.labels[earlier])
            (again if same else other).append(number)
    if again:
        found.append(f"{len(again):,} images come twice{_such_as(dataset, again)}")
    if other:
        found.append(
            f"{len(other):,} images come again with other labels{_such_as(dataset, other)}"
        )
    return found


def _counts(dataset: Dataset, *, classes: int) -> Tensor:
    """Return the count of each label in each image, int64 (N, 256 or classes)."""
    if dataset.labels.ndim == 1:
        return torch.nn.functional.one_hot(dataset.labels, classes)
    return torch.stack([torch.bincount(m.flatten(), minlength=256) for m in dataset.labels])


def _digests(dataset: Dataset) -> list[bytes]:
    return [
        hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
        for image in dataset.images
    ]


def _is_plain(image: Tensor) -> bool:
    return bool((image[0] == image[0, 0]).all()) and bool((image == image[0, 0]).all())


def _sizes(dataset: Dataset) -> str:
    """Return the image sizes in memory and in the files as text, height x width."""
    height, width = dataset.images.shape[1:3]
    of_files = Counter(dataset.sizes)
    if set(of_files) <= {(height, width)}:
        return f"{height}x{width} pixels"
    common = ", ".join(f"{h}x{w}" for (h, w), _ in of_files.most_common(_NAMED))
    more = f" and {len(of_files) - _NAMED} more sizes" if len(of_files) > _NAMED else ""
    return f"{height}x{width} pixels from files of {common}{more}"


def _such_as(dataset: Dataset, numbers: Sequence[int]) -> str:
    names = [dataset.names[number] if dataset.names else str(number) for number in numbers[:_NAMED]]
    return f": {', '.join(names)}{', ...' if len(numbers) > _NAMED else ''}"
