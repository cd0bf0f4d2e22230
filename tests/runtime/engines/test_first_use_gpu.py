"""The batch size of an engine on a GPU: measured once, on one engine, within the card's memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import dlcv
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.schema import Plan
from dlcv.runtime.engines import Choice, EngineOptions, first_use_gpu
from dlcv.runtime.engines.base import Arrays, EngineBase
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.engines.first_use_gpu import with_gpu_batch
from dlcv.runtime.errors import EngineError, EngineUnavailableError, InputError
from dlcv.runtime.machine.gpu import Driver, Gpu
from dlcv.runtime.running import tasks

SIZE = (224, 224)
RATES = {1: 20.0, 4: 60.0, 8: 100.0, 16: 190.0, 32: 350.0, 64: 600.0, 128: 800.0, 256: 830.0}


class Card(EngineBase):
    """An engine with two batches in flight. most: images that fit into its memory."""

    def __init__(self, bundle: Bundle, most: int) -> None:
        fake = FakeEngine(bundle.graph())
        self._info, self._inputs, self._outputs = fake.info, fake.inputs, fake.outputs
        self._most = most
        self.calls: list[int] = []
        self.lent: list[int] = []
        self.under_way = self.most_under_way = 0
        self.closed = False

    @property
    def batches_in_flight(self) -> int:
        return 2

    def host_memory(self, size: int) -> Any:
        self.lent.append(size)
        return super().host_memory(size)

    def start(self, feeds: Any) -> Callable[[], Arrays]:
        if len(feeds["image"]) > self._most:
            raise EngineError("the GPU's memory is too small; give a smaller --batch")
        self.calls.append(len(feeds["image"]))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

        def finish() -> Arrays:
            self.under_way -= 1
            return {}

        return finish

    def infer(self, feeds: Any) -> Arrays:
        return self.start(feeds)()

    def close(self) -> None:
        self.closed = True


class Machine:
    """A machine with one GPU. loads: the options of each engine. fits: the largest batch that can be loaded, and run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gib: float = 80) -> None:
        self.loads: list[EngineOptions] = []
        self.cards: list[Card] = []
        self.fits: tuple[int, int] = (1000, 1000)
        self.error: type[Exception] = EngineError
        gpu = Gpu(index=0, name="Card", compute_capability=(9, 0), memory_bytes=int(gib * 2**30))
        found = Driver(cuda=(13, 0), gpus=(gpu,), fault=None)
        monkeypatch.setattr(first_use_gpu, "driver", lambda: found)
        monkeypatch.setattr(first_use_gpu, "load_chosen", self.load)
        monkeypatch.setattr(first_use_gpu, "_SECONDS", 0.0)

    def load(self, bundle: Bundle, choice: Choice, **_: object) -> Card:
        self.loads.append(choice.options)
        if (choice.options.batch_size or 0) > self.fits[0]:
            raise self.error("the GPU's memory is too small")
        self.cards.append(Card(bundle, self.fits[1]))
        return self.cards[-1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def bundle(segment_bundle: Path) -> Bundle:
    return open_bundle(segment_bundle)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Images a second by batch size, which may be changed; nothing is timed."""
    table = dict(RATES)

    def rate(engine: Card, images: np.ndarray) -> float:
        engine.infer({"image": images})
        return table[len(images)]

    monkeypatch.setattr(first_use_gpu, "_rate", rate)
    return table


def chosen(bundle: Bundle, engine: str = "cuda", **more: Any) -> EngineOptions:
    size = more.pop("size", SIZE)
    options = EngineOptions(**more)
    choice = Choice(engine=engine, precision="fp32", options=options)
    return with_gpu_batch(bundle, choice, outputs=("mask",), size=size).options


@pytest.mark.usefixtures("rates")
def test_the_smallest_batch_that_is_nearly_the_fastest_is_taken_and_kept(
    bundle: Bundle, machine: Machine
) -> None:
    found = chosen(bundle)
    assert (found.batch_size, found.settings) == (128, {}), "256 is 4 % faster, and twice as large"
    assert [load.batch_size for load in machine.loads] == [256], "one engine runs all batches"
    assert machine.cards[0].calls == [1, 4, 8, 16, 32, 64, 128, 256] * 2
    assert machine.cards[0].lent == [256 * 224 * 224 * 3], "in memory from which it copies"
    assert machine.cards[0].closed
    assert chosen(bundle).batch_size == 128
    assert chosen(bundle, settings={"device": "0"}).batch_size == 128
    assert len(machine.loads) == 1, "it is in the cache"
    chosen(bundle, settings={"tf32": "true"})
    assert len(machine.loads) == 2, "another setting is another question"


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize("engine", ["trt", "trt-rtx"])
def test_a_compiled_engine_is_compiled_once_and_that_one_runs(
    bundle: Bundle, machine: Machine, engine: str
) -> None:
    found = chosen(bundle, engine)
    assert [load.batch_size for load in machine.loads] == [256]
    assert (found.batch_size, found.settings) == (128, {"profile": "1,256,256"})


def test_where_the_largest_batch_wins_no_profile_is_needed(
    bundle: Bundle, machine: Machine, rates: dict[int, float]
) -> None:
    rates[256] = 900.0
    assert chosen(bundle, "trt").settings == {}
    assert chosen(bundle, "trt").batch_size == 256
    assert len(machine.loads) == 1


@pytest.mark.usefixtures("rates")
def test_a_plan_of_the_bundle_is_not_outgrown(bundle: Bundle, machine: Machine) -> None:
    fields = {"profile": "batch 1,8,32; height 8,32,32; width 8,32,32"}
    plan = Plan(file="model.onnx", engine="trt", graph_sha256="0" * 64, fields=fields)
    graph = bundle.graph()
    variant = msgspec.structs.replace(graph.variants["fp32"], plans=(plan,))
    graph = msgspec.structs.replace(graph, variants={"fp32": variant})
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"model": graph})
    planned = Bundle(path=bundle.path, manifest=manifest)
    assert chosen(planned, "trt").batch_size == 32
    assert machine.loads[-1].batch_size == 32
    assert chosen(planned, "trt-rtx").batch_size == 128, "the plan is another engine's"


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize(
    ("gib", "size", "largest"),
    [(80, (224, 224), 256), (80, (512, 512), 128), (8, (224, 224), 128), (4, (1024, 1024), 1)],
)
def test_batches_that_can_hardly_fit_are_not_tried(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, gib: float, size: tuple[int, int], largest: int
) -> None:
    machine = Machine(monkeypatch, gib=gib)
    chosen(bundle, size=size)
    assert machine.loads[0].batch_size == largest


@pytest.mark.usefixtures("rates")
def test_where_the_largest_does_not_fit_the_next_is_tried_and_no_third(
    bundle: Bundle, machine: Machine
) -> None:
    machine.fits = (128, 1000)
    assert chosen(bundle).batch_size == 128
    assert [load.batch_size for load in machine.loads] == [256, 128]
    machine.fits = (64, 1000)
    assert chosen(bundle, settings={"tf32": "true"}).batch_size is None
    assert [load.batch_size for load in machine.loads[2:]] == [256, 128]


@pytest.mark.usefixtures("rates")
def test_a_batch_that_does_not_run_is_left_out(bundle: Bundle, machine: Machine) -> None:
    machine.fits = (1000, 32)
    assert chosen(bundle).batch_size == 32
    machine.fits = (1000, 0)
    assert chosen(bundle, settings={"tf32": "true"}).batch_size is None, (
        "its error comes when it runs"
    )
    assert all(card.closed for card in machine.cards)


def test_batches_that_would_take_too_long_are_not_run(
    bundle: Bundle, machine: Machine, rates: dict[int, float]
) -> None:
    rates |= {1: 10.0, 4: 15.0, 8: 15.5}
    assert chosen(bundle).batch_size == 4
    assert machine.cards[0].calls == [1, 4, 1, 4], "a call of 8 would take .53 s"


def test_rates_that_change_while_they_are_measured_are_not_kept(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([100.0] * 8 + [1000.0] * 8 + [100.0] * 100)
    monkeypatch.setattr(first_use_gpu, "_rate", lambda *_: next(speeds))
    monkeypatch.setattr(first_use_gpu, "_LONGEST_CALL_SECONDS", 1e9)
    chosen(bundle)
    chosen(bundle)
    chosen(bundle)
    assert len(machine.loads) == 2


@pytest.mark.usefixtures("rates", "machine")
def test_without_space_for_the_cache_it_is_said_and_runs(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    said: list[str] = []
    assert chosen(bundle, on_progress=lambda words, _: said.append(words)).batch_size == 128
    assert any("found out anew each time, because dlcv cannot write" in words for words in said)


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("ort", {}),
        ("cuda", {"batch_size": 4}),
        ("trt", {"settings": {"profile": "1,4,16"}}),
        ("cuda", {"settings": {"device": "3"}}),
        ("cuda", {"settings": {"device": "first"}}),
    ],
)
def test_what_the_caller_fixed_or_no_gpu_runs_is_left_alone(
    bundle: Bundle, machine: Machine, engine: str, options: dict[str, Any]
) -> None:
    found = chosen(bundle, engine, **options)
    assert (found.batch_size, dict(found.settings)) == (
        options.get("batch_size"),
        options.get("settings", {}),
    )
    assert machine.loads == []


@pytest.mark.parametrize("error", [EngineUnavailableError, InputError])
def test_an_engine_that_cannot_be_loaded_is_tried_once(
    bundle: Bundle, machine: Machine, error: type[Exception]
) -> None:
    machine.fits, machine.error = (0, 0), error
    assert chosen(bundle).batch_size is None
    assert len(machine.loads) == 1


def test_the_real_measurement_keeps_two_batches_in_flight(bundle: Bundle, machine: Machine) -> None:
    assert chosen(bundle, size=(32, 32)).batch_size in first_use_gpu.BATCHES
    assert machine.cards[0].most_under_way == 2
    assert machine.cards[0].under_way == 0


@pytest.mark.usefixtures("rates")
def test_a_loaded_bundle_runs_with_the_batch_that_was_found(
    segment_bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[EngineOptions] = []

    def load_engine(bundle: Bundle, *_: object, options: EngineOptions, **__: object) -> FakeEngine:
        loaded.append(options)
        return FakeEngine(bundle.graph())

    monkeypatch.setattr(tasks, "load_engine", load_engine)
    with dlcv.load(segment_bundle, engine="trt", devices=(0,)) as model:
        assert model.batch_size == 128
    assert loaded[0].settings == {"device": "0", "profile": "1,256,256"}
    with dlcv.load(segment_bundle, engine="trt", options=EngineOptions(batch_size=2)) as model:
        assert model.batch_size == 2
    assert len(machine.loads) == 1
