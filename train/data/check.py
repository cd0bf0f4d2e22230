"""Checks a recipe's data before a long run: class balance, sizes, suspicious images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from dlcv.train.data.batches import IGNORE_LABEL, Dataset
from dlcv.train.data.streamed import AnyDataset, StreamedDataset
from dlcv.train.recipe import LabelledRecipe

FEW = 10  # images of a class (classify) or with the class (segment); fewer are hard to learn
_NAMED = 3  # examples per sentence


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The frequency of a class: `images` that contain it, and its `share` in 0..1 of images or pixels."""

    images: int
    share: float


def balances(dataset: AnyDataset, *, classes: int) -> list[Balance]:
    """Return the balance of every class. Shares exclude ignored pixels and add up to 1."""
    counts = torch.cat([_counts(part, classes=classes) for part in _labels_of(dataset)])
    counts = counts[:, :classes]  # (N, classes), images or pixels
    total = max(1, int(counts.sum()))
    return [
        Balance(images=int((counts[:, c] > 0).sum()), share=int(counts[:, c].sum()) / total)
        for c in range(classes)
    ]


def summary_lines(
    recipe: LabelledRecipe,
    *,
    train: AnyDataset,
    validation: AnyDataset,
    thorough: bool = False,
) -> list[str]:
    """Return one line per split, and one for each finding, for printing before a long run.

    thorough: also decode all images of streamed splits for it.
    """
    splits = {"training": train, "validation": validation}
    streamed = [name for name, split in splits.items() if isinstance(split, StreamedDataset)]
    lines = [_line(name, dataset, recipe) for name, dataset in splits.items()]
    if streamed and not thorough:
        return [
            *lines,
            f"{' and '.join(streamed)} images are streamed from disk and not looked at in advance; `dlcv-train data` does",
        ]
    return lines + findings(recipe, train=train, validation=validation)


def _line(name: str, dataset: AnyDataset, recipe: LabelledRecipe) -> str:
    start = f"{name}: {len(dataset):,} images, {_sizes(dataset)}; "
    if isinstance(dataset, StreamedDataset) and recipe.task == "segment":
        return f"{start}{len(recipe.classes)} classes"
    shares = [b.share for b in balances(dataset, classes=len(recipe.classes))]
    least, most = shares.index(min(shares)), shares.index(max(shares))
    return (
        f"{start}{len(shares)} classes, from"
        f" {recipe.class_names[least]} {shares[least]:.1%} to {recipe.class_names[most]} {shares[most]:.1%}"
    )


def findings(recipe: LabelledRecipe, *, train: AnyDataset, validation: AnyDataset) -> list[str]:
    """Return suspicious findings as sentences: readers' notes, rare classes, odd images, duplicates.

    It decodes all images of streamed splits.
    """
    found = []
    facts = {
        name: _facts(split) for name, split in (("training", train), ("validation", validation))
    }
    for (split, known), dataset in zip(facts.items(), (train, validation), strict=True):
        rare = _about_classes(dataset, recipe)
        about = [*known.notes, *rare, *_about_masks(known, recipe), *_about_images(known)]
        found += [f"{split}: {sentence}" for sentence in about]
    seen = set(facts["training"].images)
    leaked = [n for n, digest in enumerate(facts["validation"].images) if digest in seen]
    if leaked:
        found.append(
            f"validation: {len(leaked):,} images are training images too{_such_as(facts['validation'], leaked)}"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is known of a split after all its images were in memory, a part after the other.

    images, labels: digests, one an image. ignored: its ignored pixels. pixels: of each mask. plain: numbers of images
    of one color.
    """

    images: list[bytes]
    labels: list[bytes]
    ignored: list[int]
    pixels: int
    plain: list[int]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def _facts(dataset: AnyDataset) -> _Facts:
    parts = list(map(_facts_of_part, dataset.chunks()))
    starts = accumulate([len(part.images) for part in parts], initial=0)
    notes = [note for part in parts for note in part.notes]
    return _Facts(
        images=[digest for part in parts for digest in part.images],
        labels=[digest for part in parts for digest in part.labels],
        ignored=[count for part in parts for count in part.ignored],
        pixels=max((part.pixels for part in parts), default=0),
        plain=[s + n for part, s in zip(parts, starts, strict=False) for n in part.plain],
        names=tuple(name for part in parts for name in part.names),
        notes=(*notes[:_NAMED], *(["..."] if len(notes) > _NAMED else [])),
    )


def _facts_of_part(part: Dataset) -> _Facts:
    are_masks = part.labels.ndim > 1
    ignored = (part.labels == IGNORE_LABEL).flatten(1).sum(1).tolist() if are_masks else []
    return _Facts(
        images=_digests(part.images),
        labels=_digests(part.labels),
        ignored=ignored,
        pixels=part.labels[0].numel() if are_masks and len(part) else 0,
        plain=[number for number, image in enumerate(part.images) if _is_plain(image)],
        names=part.names,
        notes=part.notes,
    )


def _labels_of(dataset: AnyDataset) -> Iterator[Tensor]:
    """Yield a split's labels in parts. Of streamed masks, each is decoded."""
    if isinstance(dataset, StreamedDataset) and dataset.coding is not None:
        yield from (part.labels for part in dataset.chunks())
    else:
        yield dataset.labels


def _about_classes(dataset: AnyDataset, recipe: LabelledRecipe) -> list[str]:
    rare = [
        f"{name} ({balance.images})"
        for name, balance in zip(
            recipe.class_names, balances(dataset, classes=len(recipe.classes)), strict=True
        )
        if balance.images < FEW
    ]
    more = ", ..." if len(rare) > _NAMED else ""
    few = f"{len(rare)} classes are in fewer than {FEW} images: {', '.join(rare[:_NAMED])}{more}"
    return [few] if rare else []


def _about_masks(facts: _Facts, recipe: LabelledRecipe) -> list[str]:
    found = []
    if recipe.task == "segment":
        count, pixels = sum(facts.ignored), facts.pixels
        if count:
            share = count / (pixels * len(facts.ignored))
            found.append(f"{count:,} mask pixels are ignored, {share:.2%}")
        empty = [number for number, of_mask in enumerate(facts.ignored) if of_mask == pixels]
        if empty:
            found.append(f"{len(empty):,} masks hold nothing but ignored{_such_as(facts, empty)}")
    return found


def _about_images(facts: _Facts) -> list[str]:
    found = []
    if facts.plain:
        found.append(f"{len(facts.plain):,} images are of one color{_such_as(facts, facts.plain)}")
    first: dict[bytes, int] = {}
    again: list[int] = []
    other: list[int] = []
    for number, digest in enumerate(facts.images):
        earlier = first.setdefault(digest, number)
        if earlier != number:
            same = facts.labels[number] == facts.labels[earlier]
            (again if same else other).append(number)
    if again:
        found.append(f"{len(again):,} images come twice{_such_as(facts, again)}")
    if other:
        found.append(f"{len(other):,} images come again with other labels{_such_as(facts, other)}")
    return found


def _counts(labels: Tensor, *, classes: int) -> Tensor:
    """Return the count of each label in each image, int64 (N, 256 or classes)."""
    if labels.ndim == 1:
        return torch.nn.functional.one_hot(labels, classes)
    return torch.stack([torch.bincount(m.flatten(), minlength=256) for m in labels])


def _digests(rows: Tensor) -> list[bytes]:
    return [hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in rows]


def _is_plain(image: Tensor) -> bool:
    return bool((image[0] == image[0, 0]).all()) and bool((image == image[0, 0]).all())


def _sizes(dataset: AnyDataset) -> str:
    """Return the image sizes in memory and in the files as text, height x width."""
    height, width = dataset.size
    if isinstance(dataset, StreamedDataset):
        return f"{height}x{width} pixels"
    of_files = Counter(dataset.sizes)
    if set(of_files) <= {(height, width)}:
        return f"{height}x{width} pixels"
    common = ", ".join(f"{h}x{w}" for (h, w), _ in of_files.most_common(_NAMED))
    more = f" and {len(of_files) - _NAMED} more sizes" if len(of_files) > _NAMED else ""
    return f"{height}x{width} pixels from files of {common}{more}"


def _such_as(facts: _Facts, numbers: Sequence[int]) -> str:
    names = [facts.names[number] if facts.names else str(number) for number in numbers[:_NAMED]]
    return f": {', '.join(names)}{', ...' if len(numbers) > _NAMED else ''}"
