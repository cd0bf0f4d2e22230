"""Few-shot episodes of support and query images, drawn from a seed or read from a CSV.

Episode n depends only on the seed, the epoch and n. A resumed run therefore sees the same episodes, and a
checkpoint, its bundle and any other bundle are scored on the same ones.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from dlcv.runtime.bundle.schema import Model, Positive
from dlcv.runtime.errors import InputError

Indices: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

_COLUMNS = ("episode", "role", "class", "file")
_ROLES = ("support", "query")
_BITS = 64  # numpy seeds are not negative


class EpisodeConfig(Model, frozen=True, kw_only=True):
    """How episodes are drawn: `ways` classes, each with `shots` support images and `queries` query images.

    episodes: their number; in training, per epoch.
    """

    ways: Positive
    shots: Positive
    queries: Positive = 15
    episodes: Positive


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode. Images are indices into a data set.

    support: int64 (shots,), for each class. query: int64 (Q,). labels: int64 (Q,), the class of each query
    within the episode.
    """

    support: tuple[Indices, ...]
    query: Indices
    labels: Indices


@final
class EpisodeSampler:
    """Draws episodes from a data set's classes. Iterates over the episodes of epoch 0.

    Raises:
        InputError: there are fewer classes than `ways`, or a class has fewer images than an episode takes.
    """

    def __init__(
        self, labels: Indices, config: EpisodeConfig, *, names: Sequence[str], seed: int
    ) -> None:
        """Check that episodes can be drawn. labels: int64 (N,), the class of each image. names: of the classes."""
        self.config = config
        self._seed = seed % 2**_BITS
        self._members = [np.flatnonzero(labels == c) for c in range(len(names))]
        if config.ways > len(names):
            raise InputError(
                f"an episode asks for {config.ways} classes, there are {len(names)}; lower ways"
            )
        for name, members in zip(names, self._members, strict=True):
            if len(members) < config.shots + config.queries:
                raise InputError(
                    f"an episode takes {config.shots} support images and {config.queries} queries of a class,"
                    f" {name!r} has {len(members)} images; lower shots or queries"
                )

    def drawn(self, number: int, *, epoch: int = 0) -> Indices:
        """Return the image indices of an episode, int64 (ways, shots + queries), support first."""
        random = np.random.default_rng((self._seed, epoch, number))
        classes = random.permutation(len(self._members))[: self.config.ways]
        count = self.config.shots + self.config.queries
        return np.stack([random.permutation(self._members[c])[:count] for c in classes])

    def __iter__(self) -> Iterator[Episode]:
        shots, queries = self.config.shots, self.config.queries
        labels = np.repeat(np.arange(self.config.ways), queries)
        for number in range(self.config.episodes):
            images = self.drawn(number)
            query = images[:, shots:].flatten()
            yield Episode(support=tuple(images[:, :shots]), query=query, labels=labels)


def episodes_from_csv(path: Path, files: Sequence[str]) -> list[Episode]:
    """Read fixed episodes from a CSV with one image per line.

    Its columns are episode, role (support or query), class and file. files: names of the data set's images, as
    in the column `file`.

    Raises:
        InputError: the file cannot be read, a line does not fit, or an episode has one class or no query.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"cannot read episodes from {path}: {e}") from e
    if not rows or any(column not in rows[0] for column in _COLUMNS):
        raise InputError(f"{path} must have rows and the columns {', '.join(_COLUMNS)}")
    positions = {name: number for number, name in enumerate(files)}
    episodes: dict[str, list[dict[str, str]]] = {}
    for line, row in enumerate(rows, start=2):
        if row["role"] not in _ROLES:
            raise InputError(f"{path} line {line}: role is support or query, not {row['role']!r}")
        if row["file"] not in positions:
            raise InputError(f"{path} line {line}: the data have no image {row['file']!r}")
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
        raise InputError(
            f"{where}: it has support of {len(support)} classes and {len(queries)} queries;"
            " it needs two classes and a query"
        )
    order = list(support)
    if unknown := next((row["class"] for row in queries if row["class"] not in support), None):
        raise InputError(f"{where}: a query is of class {unknown!r}, which has no support")
    return Episode(
        support=tuple(np.array(indices) for indices in support.values()),
        query=np.array([positions[row["file"]] for row in queries]),
        labels=np.array([order.index(row["class"]) for row in queries]),
    )
