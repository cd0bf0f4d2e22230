"""Episodes: which images are support and which are queries, drawn from a seed or read from a CSV.

An episode of index n is a function of the seed, the epoch and n alone, so that a resumed run sees what it would
have seen, and runs of one seed are scored on the same episodes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dlcv.runtime.errors import RecipeError
from dlcv.train.data.batches import generator_for
from dlcv.train.fewshot.recipe import EpisodeConfig

_COLUMNS = ("episode", "role", "class", "file")
_ROLES = ("support", "query")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Images by their index in a data set.

    support: int64 (shots,), for each class. query: int64 (Q,). labels: int64 (Q,), which of the classes a query is of.
    """

    support: tuple[Tensor, ...]
    query: Tensor
    labels: Tensor


class EpisodeSampler:
    """Draws episodes of a data set's classes.

    Raises:
        RecipeError: there are fewer classes than `ways`, or a class has fewer images than an episode takes.
    """

    def __init__(
        self, labels: Tensor, config: EpisodeConfig, *, names: Sequence[str], split: str, seed: int
    ) -> None:
        """labels: int64 (N,), the class of each image. names: of the classes. split: for messages."""
        self.config = config
        self._seed = seed
        self._members = [torch.nonzero(labels == c).flatten() for c in range(len(names))]
        if config.ways > len(names):
            raise RecipeError(
                f"a {split} episode asks for {config.ways} classes, the split has {len(names)};"
                f" lower {split}.ways"
            )
        for name, members in zip(names, self._members, strict=True):
            if len(members) < config.shots + config.queries:
                raise RecipeError(
                    f"a {split} episode takes {config.shots} support images and {config.queries} queries of a"
                    f" class, {name!r} has {len(members)} images; lower {split}.shots or {split}.queries"
                )

    def drawn(self, number: int, *, epoch: int = 0) -> Tensor:
        """Return the images of an episode, int64 (ways, shots + queries), the support first."""
        generator = generator_for(self._seed, epoch=epoch, number=number)
        count = self.config.shots + self.config.queries
        classes = torch.randperm(len(self._members), generator=generator)[: self.config.ways]
        rows = [self._members[int(c)] for c in classes]
        return torch.stack(
            [row[torch.randperm(len(row), generator=generator)[:count]] for row in rows]
        )

    def __iter__(self) -> Iterator[Episode]:
        """Yield the episodes of epoch 0."""
        shots, queries = self.config.shots, self.config.queries
        labels = torch.arange(self.config.ways).repeat_interleave(queries)
        for number in range(self.config.episodes):
            images = self.drawn(number)
            query = images[:, shots:].flatten()
            yield Episode(support=tuple(images[:, :shots]), query=query, labels=labels)


def episodes_from_csv(path: Path, files: Sequence[str]) -> list[Episode]:
    """Read fixed episodes: a line an image, with columns episode, role (support or query), class and file.

    files: names of the data set's images, as they are in the column `file`.

    Raises:
        RecipeError: the file cannot be read, a line does not fit, or an episode has one class or no query.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise RecipeError(f"cannot read episodes from {path}: {e}") from e
    if not rows or any(column not in rows[0] for column in _COLUMNS):
        raise RecipeError(f"{path} must have rows and the columns {', '.join(_COLUMNS)}")
    positions = {name: number for number, name in enumerate(files)}
    episodes: dict[str, list[dict[str, str]]] = {}
    for line, row in enumerate(rows, start=2):
        if row["role"] not in _ROLES:
            raise RecipeError(f"{path} line {line}: role is support or query, not {row['role']!r}")
        if row["file"] not in positions:
            raise RecipeError(f"{path} line {line}: the test split has no image {row['file']!r}")
        episodes.setdefault(row["episode"], []).append(row)
    return [
        _episode(group, positions, where=f"{path}, episode {name}")
        for name, group in episodes.items()
    ]


def _episode(rows: list[dict[str, str]], positions: dict[str, int], *, where: str) -> Episode:
    support: dict[str, list[int]] = {}
    queries = [row for row in rows if row["role"] == "query"]
    for row in rows:
        if row["role"] == "support":
            support.setdefault(row["class"], []).append(positions[row["file"]])
    if len(support) < 2 or not queries:
        raise RecipeError(
            f"{where}: it has support of {len(support)} classes and {len(queries)} queries;"
            " it needs two classes and a query"
        )
    order = list(support)
    if unknown := next((row["class"] for row in queries if row["class"] not in support), None):
        raise RecipeError(f"{where}: a query is of class {unknown!r}, which has no support")
    return Episode(
        support=tuple(torch.tensor(indices) for indices in support.values()),
        query=torch.tensor([positions[row["file"]] for row in queries]),
        labels=torch.tensor([order.index(row["class"]) for row in queries]),
    )
