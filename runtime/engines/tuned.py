"""What a tuning found on this machine, kept in the cache; light, because every `--engine auto` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.machine.cache import CacheKey, lookup, store
from dlcv.runtime.machine.system import machine_name

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.engines.base import EngineOptions

Goal: TypeAlias = Literal["throughput", "latency"]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to run a bundle, and how fast it was.

    threads: None where the CPU does not compute; all cores are left to the engine. ms_per_call: median, and its quartiles. calls: how many
    were timed. ratio: images/s against plain ONNX Runtime's at the same batch, in the same rounds; None where
    that could not run. busy_ratio: the same while a thread decodes photos. final: measured in the last, longer rounds.
    """

    engine: str
    precision: Precision
    batch: int
    threads: int | None
    settings: dict[str, str]
    images_per_second: float
    ms_per_call: float
    quartiles_ms: tuple[float, float]
    calls: int
    ratio: float | None = None
    busy_ratio: float | None = None
    final: bool = False

    def fits(self, precision: Precision | None, options: EngineOptions) -> bool:
        """Return whether it is within what the user fixed, batch size apart."""
        return (
            precision in (None, self.precision)
            and (options.threads is None or self.threads in (None, options.threads))
            and options.settings.items() <= self.settings.items()
        )


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `dlcv-infer tune` measured.

    rows: those that passed parity, best first for `goal`. plain: plain ONNX Runtime, by batch. dropped: what did
    not run, or failed parity, a sentence each. created: ISO 8601, UTC. size: (height, width) of the images.
    """

    goal: Goal
    created: str
    size: tuple[int, int]
    rows: tuple[Row, ...]
    plain: tuple[Row, ...]
    dropped: tuple[str, ...] = ()

    def best(self, precision: Precision | None, options: EngineOptions) -> Row | None:
        """Return the best row within what the user fixed; of batch sizes, the measured one that is nearest."""
        rows = [row for row in self.rows if row.fits(precision, options)]
        if rows and (wanted := options.batch_size):
            nearest = min((row.batch for row in rows), key=lambda b: max(b / wanted, wanted / b))
            rows = [row for row in rows if row.batch == nearest]
        return rows[0] if rows else None


def tuning_key(bundle: Bundle, versions: Mapping[str, str]) -> CacheKey:
    """Return where the tuning of a bundle lies, for this machine. versions: of what engines need."""
    return CacheKey(
        kind="tuning", subject=bundle.sha256, fields={"machine": machine_name(), **versions}
    )


def store_tuning(key: CacheKey, tuning: Tuning) -> None:
    """Remember a tuning; one that was there is replaced.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    store(key, msgspec.json.encode(tuning))


def stored_tuning(key: CacheKey) -> tuple[Tuning | None, str]:
    """Return the tuning, or None and the reason (words after "because")."""
    found = lookup(key)
    if found.data is None:
        return None, found.reason
    try:
        return msgspec.json.decode(found.data, type=Tuning), ""
    except msgspec.MsgspecError:
        return None, f"the cached file {key.path} is of another dlcv"
