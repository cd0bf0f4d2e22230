"""Tuning results, kept in the cache. Light to import, because every `--engine auto` reads them."""

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

_LOWERED: dict[str, Precision] = {"bf16": "bf16", "f16": "fp16"}  # values of engine settings
Goal: TypeAlias = Literal["throughput", "latency"]


def arithmetic_of(precision: Precision, settings: Mapping[str, str]) -> Precision:
    """Return the precision of the arithmetic: that of the graph, or what an engine's setting lowers it to."""
    return _LOWERED.get(settings.get("precision", ""), precision)


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to run a bundle, and its measured speed.

    threads: CPU threads, None if the engine does not run on the CPU; for all cores, the engine chooses.
    ms_per_call: the median; quartiles_ms: its quartiles. calls: how many were timed. ratio: images/s relative
    to plain ONNX Runtime at the same batch, in the same rounds; None if that could not run. busy_ratio: the
    same while a thread decodes photos. final: measured in the last, longer rounds. proof: why a lower precision may run, in
    words.
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
    proof: str = ""

    @property
    def arithmetic(self) -> Precision:
        """The precision of the arithmetic."""
        return arithmetic_of(self.precision, self.settings)

    def fits(self, precision: Precision | None, options: EngineOptions) -> bool:
        """Return whether the row is within what the user fixed, apart from the batch size."""
        return (
            precision in (None, self.arithmetic)
            and (options.threads is None or self.threads in (None, options.threads))
            and options.settings.items() <= self.settings.items()
        )


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of `dlcv-infer tune`.

    rows: what passed parity, best first for `goal`. plain: plain ONNX Runtime, by batch. dropped: one sentence
    for each configuration that did not run or failed parity. unsteady: why it is not stored, in words. created: ISO 8601, UTC. size: (height, width) of
    the images.
    """

    goal: Goal
    created: str
    size: tuple[int, int]
    rows: tuple[Row, ...]
    plain: tuple[Row, ...]
    dropped: tuple[str, ...] = ()
    unsteady: str = ""

    def best(self, precision: Precision | None, options: EngineOptions) -> Row | None:
        """Return the best row within what the user fixed, at the measured batch size nearest to the wanted one."""
        rows = [row for row in self.rows if row.fits(precision, options)]
        if rows and (wanted := options.batch_size):
            nearest = min((row.batch for row in rows), key=lambda b: max(b / wanted, wanted / b))
            rows = [row for row in rows if row.batch == nearest]
        return rows[0] if rows else None


def tuning_key(bundle: Bundle, versions: Mapping[str, str]) -> CacheKey:
    """Return the cache key of a bundle's tuning on this machine. versions: of the packages that engines need."""
    return CacheKey(
        kind="tuning", subject=bundle.sha256, fields={"machine": machine_name(), **versions}
    )


def store_tuning(key: CacheKey, tuning: Tuning) -> None:
    """Store a tuning, replacing an existing one.

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
