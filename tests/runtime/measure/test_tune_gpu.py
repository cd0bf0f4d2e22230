"""Tuning an engine on a GPU: large batches, one engine for all of them at first, and what its memory allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlcv.runtime import engines
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.engines import EngineEntry, registry
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineOptions
from dlcv.runtime.errors import EngineError
from dlcv.runtime.measure import lower, timing, tune
from dlcv.runtime.measure.tune import TuneRequest

GPU_BATCHES = (1, 8, 32, 64, 128, 256)


class Card(EngineBase):
    """A GPU whose answers are those of `ort`; two batches are in flight. most: images that fit into its memory."""

    def __init__(self, bundle: Bundle, most: int, outputs: Any) -> None:
        self._engine = engines.load_engine(bundle, "ort", outputs=outputs)
        self._info = self._engine.info
        self._inputs, self._outputs = self._engine.inputs, self._engine.outputs
        self._most = most
        self.under_way = 0
        self.most_under_way = 0
        self.closed = False

    @property
    def batches_in_flight(self) -> int:
        return 2

    def infer(self, feeds: Any) -> Arrays:
        if len(feeds["image"]) > self._most:
            raise EngineError(f"the GPU's memory is too small for a batch of {len(feeds['image'])}")
        return self._engine.infer(feeds)

    def start(self, feeds: Any) -> Callable[[], Arrays]:
        arrays = self.infer(feeds)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

        def finish() -> Arrays:
            self.under_way -= 1
            return arrays

        return finish

    def close(self) -> None:
        self._engine.close()
        self.closed = True


class Machine:
    """A machine with `gpu`, an engine that is compiled for a batch, and `ort`. loads: batch sizes of `gpu`, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: list[int | None] = []
        self.cards: list[Card] = []
        self.compiles, self.runs = 1000, 1000
        entry = EngineEntry(
            summary="a GPU", factory="none:None", modules=("numpy",), install="", needs_gpu=True
        )
        monkeypatch.setitem(registry.ENGINES, "gpu", entry)
        monkeypatch.setattr(tune, "load_engine", self.load)
        monkeypatch.setattr(tune, "why_unavailable", lambda _: None)
        monkeypatch.setattr(tune, "_LONGEST_CALL_SECONDS", 1e9)
        monkeypatch.setattr(timing, "_SETTLE_SECONDS", 0.0)
        monkeypatch.setattr(timing, "_TURN_SECONDS", (0.001, 0.5))

    def load(self, bundle: Bundle, name: str, **more: Any) -> Any:
        if name != "gpu":
            return engines.load_engine(bundle, name, **more)
        batch = more["options"].batch_size
        self.loads.append(batch)
        if (batch or 8) > self.compiles:
            raise EngineError("the GPU's memory is too small for the graph")
        self.cards.append(Card(bundle, self.runs, more.get("outputs")))
        return self.cards[-1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def bundle(classify_bundle: Path) -> Bundle:
    return open_bundle(classify_bundle)


def tuned(bundle: Bundle, *names: str, **more: Any) -> Any:
    request = TuneRequest(engines=names, threads=(1,), seconds=0.1, **more)
    return tune.tune(bundle, request)


def batches(made: Any, engine: str) -> list[int]:
    return sorted({row.batch for row in made.rows if row.engine == engine})


def test_a_gpu_is_tried_with_large_batches_and_a_cpu_beside_it_is_not(
    bundle: Bundle, machine: Machine
) -> None:
    made = tuned(bundle, "ort", "gpu")
    assert batches(made, "gpu") == list(GPU_BATCHES)
    assert batches(made, "ort") == [1, 8, 32]
    assert [row.batch for row in made.plain] == [1, 8, 32]
    check, screening, *finals = machine.loads
    assert (check, screening) == (None, 256), "one engine, compiled once, runs all batches"
    assert sorted(finals, key=lambda b: b or 0) == [
        row.batch
        for row in sorted(made.rows, key=lambda r: r.batch)
        if row.final and row.engine == "gpu"
    ], "of the last rounds each is compiled for its own batch"
    assert all(card.closed and card.under_way == 0 for card in machine.cards)
    assert machine.cards[1].most_under_way == 2, "as it runs"


def test_batches_that_are_given_are_those_of_every_engine(bundle: Bundle, machine: Machine) -> None:
    made = tuned(bundle, "ort", "gpu", batches=(4, 16))
    assert batches(made, "gpu") == batches(made, "ort") == [4, 16]
    assert machine.loads[1] == 16


def test_latency_is_of_single_images_that_nothing_overlaps(
    bundle: Bundle, machine: Machine
) -> None:
    made = tuned(bundle, "gpu", goal="latency")
    assert batches(made, "gpu") == [1]
    assert {card.most_under_way for card in machine.cards} == {0}


def test_a_batch_that_does_not_fit_is_dropped_with_its_reason(
    bundle: Bundle, machine: Machine
) -> None:
    machine.compiles, machine.runs = 128, 64
    made = tuned(bundle, "gpu")
    assert batches(made, "gpu") == [1, 8, 32, 64]
    assert machine.loads[1:3] == [256, 128]
    assert made.dropped[:2] == (
        "gpu fp32, batch 256: the GPU's memory is too small for the graph",
        "gpu fp32, batch 128: the GPU's memory is too small for a batch of 128",
    )


def test_what_takes_too_long_is_judged_by_each_engine_itself(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"ort": 0.1, "gpu": 0.01}
    monkeypatch.setattr(tune._Run, "_seconds_an_image", lambda _, engine, __: seconds[engine])
    monkeypatch.setattr(tune, "_LONGEST_CALL_SECONDS", 1.0)
    made = tuned(bundle, "ort", "gpu")
    assert batches(made, "ort") == [1, 8]
    assert batches(made, "gpu") == [1, 8, 32, 64]
    assert machine.loads[1] == 64
    assert made.dropped == (
        "ort, batch 32: a call takes about 3.2 s, too long to tune",
        "gpu, batch 128: a call takes about 1.3 s, too long to tune",
        "gpu, batch 256: a call takes about 2.6 s, too long to tune",
    )


def test_engines_on_a_gpu_are_loaded_two_at_a_time(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EngineEntry(
        summary="a GPU", factory="none:None", modules=("numpy",), install="", needs_gpu=True,
        variations=({}, {"a": "1"}, {"a": "2"}, {"a": "3"}),
    )  # fmt: skip
    monkeypatch.setitem(registry.ENGINES, "gpu", entry)
    open_at_once: list[int] = []
    load = machine.load

    def counted(*arguments: Any, **more: Any) -> Any:
        loaded = load(*arguments, **more)
        if machine.loads[-1] == 4:
            open_at_once.append(sum(not card.closed for card in machine.cards))
        return loaded

    monkeypatch.setattr(tune, "load_engine", counted)
    tuned(bundle, "gpu", batches=(4,))
    assert open_at_once[:4] == [1, 2, 1, 2]


def test_the_gate_of_lower_precisions_measures_no_batch(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EngineOptions] = []

    def load(*_: object, options: EngineOptions, **__: object) -> None:
        asked.append(options)

    monkeypatch.setattr(lower, "load", load)
    gate = lower.LowerGate(bundle, lower.LowerOptions(), engine="ort")
    for engine in ("cuda", "ort"):
        gate._loaded(engine, "fp32", {})
    assert [options.batch_size for options in asked] == [8, None]
