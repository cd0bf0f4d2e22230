"""Searches for nodes to keep in fp32: if a candidate fails a gate, its noisiest nodes stay in fp32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dlcv.runtime.errors import ParityError

_WORST_SHOWN = 5

C = TypeVar("C")  # candidate
R = TypeVar("R")  # report


@dataclass(frozen=True, kw_only=True)
class NodeNoise:
    """How far a node's output is from fp32: noise energy over signal energy.

    added: the noise that was not in its inputs; the ranking uses it.
    """

    node: str
    noise: float
    added: float

    def __str__(self) -> str:
        return f"{self.node} ({self.noise:.1%} noise, {self.added:.1%} of it its own)"


def search(
    build: Callable[[Collection[str]], C],
    gate: Callable[[C], R],
    rank: Callable[[C], Sequence[NodeNoise]],
    *,
    progress: Callable[[str], None],
) -> tuple[C, R]:
    """Return the first candidate that passes the gate, and the gate's result.

    In the first candidate, all nodes have the lower precision. Then the worst 1, 2, 4, ... nodes stay in fp32,
    up to half of all.

    build: makes a candidate from the names of the nodes to keep. rank: returns a candidate's nodes, worst
    first.

    Raises:
        ParityError: none passes; the message has the first failures and the worst nodes.
    """
    candidate = build(())
    try:
        return candidate, gate(candidate)
    except ParityError as e:
        first = e
    progress("it fails; looking for the nodes that hurt most")
    ranking = rank(candidate)
    for count in _steps(len(ranking) // 2):
        progress(f"trying with {count} of {len(ranking)} nodes in fp32")
        candidate = build([entry.node for entry in ranking[:count]])
        try:
            return candidate, gate(candidate)
        except ParityError:
            continue
    worst = "; ".join(map(str, ranking[:_WORST_SHOWN]))
    raise ParityError(
        f"{first}\nIt fails also with the worst {len(ranking) // 2} of {len(ranking)} nodes in fp32. "
        f"Worst tensors: {worst}"
    ) from first


def _steps(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    if most:
        yield most
