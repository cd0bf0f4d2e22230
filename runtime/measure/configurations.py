"""What a tuning loads, and what its timings say: shares of plain ONNX Runtime, rows, and whether they were steady."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines.tuned import Row
from dlcv.runtime.measure.plain_onnxruntime import PLAIN
from dlcv.runtime.measure.timing import Timing

_STEADY = 1.5  # upper quartile of the rounds' ratios over the lower one
Kind: TypeAlias = "tuple[str, Precision, tuple[tuple[str, str], ...]]"
"""Engine, precision and settings: what decides over the answers."""


@dataclass(frozen=True)
class Configuration:
    """What to load: engine, precision, threads, engine settings, and batch size."""

    engine: str
    precision: Precision
    threads: int | None
    settings: tuple[tuple[str, str], ...]
    batch: int

    def __str__(self) -> str:
        words = [self.engine, self.precision, *(f"{key}={value}" for key, value in self.settings)]
        return " ".join(words)

    @property
    def is_on_gpu(self) -> bool:
        """Whether its engine runs on a GPU, and may be compiled for batches."""
        return self.threads is None and self.engine != PLAIN

    @property
    def kind(self) -> Kind:
        """What decides over its answers."""
        return self.engine, self.precision, self.settings


Timings: TypeAlias = "dict[Configuration, Timing]"


def by_load(
    configurations: Iterable[Configuration], *, apart: bool = False
) -> list[list[Configuration]]:
    """Return configurations in groups that one engine serves, batch sizes rising.

    apart: on a GPU, each batch size is a group of its own, so that the engine is compiled for it.
    """
    groups: dict[Configuration, list[Configuration]] = {}
    for c in sorted(configurations, key=lambda c: (str(c), c.threads or 0, c.batch)):
        key = c if apart and c.is_on_gpu else replace(c, batch=0)
        groups.setdefault(key, []).append(c)
    return list(groups.values())


def scores_of(timings: Timings) -> dict[Configuration, float]:
    """Return images/s as a share of plain ONNX Runtime at its best batch size, in the same rounds."""
    plain = [c for c in timings if c.engine == PLAIN]
    if not plain:
        return {c: c.batch / timing.median for c, timing in timings.items()}
    best = min(plain, key=lambda c: timings[c].median / c.batch)
    return {
        c: timing.speed_over(timings[best]) * c.batch / best.batch for c, timing in timings.items()
    }


def unsteadiness(timings: Timings, order: Sequence[Configuration]) -> str:
    """Return what is amiss, in words, where the best configuration was not alike in all rounds; else nothing.

    Other load slows all alike, and is left out by comparing with plain ONNX Runtime in the same round.
    """
    plain = [timing for c, timing in timings.items() if c.engine == PLAIN]
    if not (plain and order):
        return ""
    ratios = timings[order[0]].ratios(plain[0])
    low, high = np.quantile(ratios, (0.25, 0.75))
    if high <= _STEADY * low:
        return ""
    return (
        f"the speed of {order[0]} was {low:.2f} to {high:.2f} times that of plain ONNX Runtime: something else runs, or the "
        "processor gets too hot; leave the machine alone and tune again, or give more --seconds"
    )


def ratio_of(timings: Timings, configuration: Configuration) -> float | None:
    """Return the speed relative to plain ONNX Runtime at the same batch size, in the same rounds."""
    for plain, timing in timings.items():
        if (plain.engine, plain.batch) == (PLAIN, configuration.batch):
            return timings[configuration].speed_over(timing)
    return None


def rows_of(timings: Timings) -> dict[Configuration, Row]:
    return {
        c: Row(
            engine=c.engine,
            precision=c.precision,
            batch=c.batch,
            threads=c.threads,
            settings=dict(c.settings),
            images_per_second=c.batch / timing.median,
            ms_per_call=1e3 * timing.median,
            quartiles_ms=(1e3 * timing.quantile(0.25), 1e3 * timing.quantile(0.75)),
            calls=timing.calls,
            ratio=ratio_of(timings, c),
        )
        for c, timing in timings.items()
    }
