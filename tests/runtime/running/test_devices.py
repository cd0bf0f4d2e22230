"""Several devices answer one stream: each takes what waits, order is kept, and all end together."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcv
from dlcv.runtime import Classification, Predictor, open_bundle
from dlcv.runtime.engines import Choice, EngineOptions, choice
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineInfo
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import (
    EngineError,
    EngineUnavailableError,
    InputError,
    ModelClosedError,
)
from dlcv.runtime.running import devices as devices_module
from dlcv.runtime.running import tasks
from dlcv.runtime.running.devices import devices_from_text, options_and_devices

SECONDS = 10.0  # to wait for what should come at once
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class Device(EngineBase):
    """Says each image's strongest colour. before: called with the batch, before it is computed."""

    def __init__(
        self, bundle: Path, name: str, before: Callable[[np.ndarray], object] = lambda _: None
    ) -> None:
        fake = FakeEngine(open_bundle(bundle).graph())
        self._inputs = fake.inputs
        self._outputs = tuple(spec for spec in fake.outputs if spec.name == "probabilities")
        self._info = EngineInfo(name="fake", version="1", device=name, precision="fp32")
        self._before = before
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.closed = 0

    def infer(self, feeds: Any) -> Arrays:
        self.threads.add(threading.current_thread().name)
        assert not self.closed
        self._before(feeds["image"])
        self.batches.append(len(feeds["image"]))
        colors = feeds["image"][:, 0, 0].astype(np.float32)
        return {"probabilities": colors / colors.sum(1, keepdims=True)}

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


class Gate:
    """Lets batches through when it is open; `entered` counts those that came to it."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, _: object) -> None:
        self.entered.release()
        assert self.open.wait(SECONDS), "nobody opened the gate"


def picture(number: int) -> np.ndarray:
    return np.broadcast_to(COLORS[number % 3], (8, 8, 3)).copy()


def answer_of(result: Any) -> int:
    assert isinstance(result, Classification)
    return result.label.index


def on(bundle: Path, *engines: Device, batch_size: int = 2) -> Predictor:
    first, *others = engines
    return Predictor(
        open_bundle(bundle), first, more_engines=others, batch_size=batch_size, workers=2
    )


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.002)


def test_devices_of_different_speed_share_a_stream_in_order(classify_bundle: Path) -> None:
    fast = Device(classify_bundle, "fast", lambda _: time.sleep(0.001))
    slow = Device(classify_bundle, "slow", lambda _: time.sleep(0.01))
    with on(classify_bundle, fast, slow) as model:
        results = list(model.stream(picture(number) for number in range(300)))
        described = model.description()["device"]
    assert [answer_of(result) for result in results] == [number % 3 for number in range(300)]
    assert sum(fast.batches) + sum(slow.batches) == 300
    assert {result.engine for result in results if isinstance(result, Classification)} == {
        "fake 1 fast fp32",
        "fake 1 slow fp32",
    }
    assert described == "fast; slow"


def test_a_device_goes_on_while_another_is_stuck(classify_bundle: Path) -> None:
    gate = Gate()
    stuck, free = Device(classify_bundle, "stuck", gate), Device(classify_bundle, "free")
    with on(classify_bundle, stuck, free) as model:
        futures: list[Future[Any]] = []
        while not gate.entered.acquire(blocking=False):  # which device is first is open
            futures.append(model.submit(picture(len(futures))))
            time.sleep(0.001)
        futures += [model.submit(picture(number)) for number in range(len(futures), 400)]
        until(lambda: sum(not future.done() for future in futures) <= 2)  # one batch
        assert any(not future.done() for future in futures)
        gate.open.set()
        answers = [answer_of(future.result(SECONDS)) for future in futures]
    assert answers == [number % 3 for number in range(400)]


def test_no_more_images_are_read_than_there_are_places(classify_bundle: Path) -> None:
    gates = Gate(), Gate()
    engines = [Device(classify_bundle, name, gate) for name, gate in zip("ab", gates, strict=True)]
    taken: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for number in range(200):
            taken.append(number)
            yield picture(number)

    with on(classify_bundle, *engines) as model:
        assert model.queue_size == 2 * (2 * (1 + 2)) + 2 * 2, "batches of both, and of the decoders"
        reader = threading.Thread(target=lambda: list(model.stream(camera())))
        reader.start()
        for gate in gates:
            assert gate.entered.acquire(timeout=SECONDS)
        until(lambda: len(taken) >= model.queue_size)
        time.sleep(0.05)
        assert len(taken) <= model.queue_size + 1
        for gate in gates:
            gate.open.set()
        reader.join(SECONDS)
    assert len(taken) == 200


def test_an_error_of_one_device_ends_a_stream(classify_bundle: Path) -> None:
    def fail(_: object) -> None:
        raise EngineError("device b is lost")

    engines = (
        Device(classify_bundle, "a", lambda _: time.sleep(0.005)),
        Device(classify_bundle, "b", fail),
    )
    with (
        on(classify_bundle, *engines) as model,
        pytest.raises(EngineError, match="device b is lost"),
    ):
        list(model.stream(picture(number) for number in range(100)))
    assert [engine.closed for engine in engines] == [1, 1]


def test_each_engine_is_used_and_closed_by_a_thread_of_its_own(classify_bundle: Path) -> None:
    gates = Gate(), Gate()
    engines = [Device(classify_bundle, name, gate) for name, gate in zip("ab", gates, strict=True)]
    model = on(classify_bundle, *engines, batch_size=1)
    futures = [model.submit(picture(number)) for number in range(2)]
    for gate in gates:
        assert gate.entered.acquire(timeout=SECONDS)
    late = model.submit(picture(2))
    closer = threading.Thread(target=model.close)
    closer.start()
    gates[0].open.set()
    time.sleep(0.05)
    assert [engine.closed for engine in engines] == [0, 0], "one copies from the other's memory"
    gates[1].open.set()
    closer.join(SECONDS)
    assert [answer_of(future.result(SECONDS)) for future in futures] == [0, 1]
    with pytest.raises(ModelClosedError):
        late.result(SECONDS)
    assert [engine.closed for engine in engines] == [1, 1]
    assert [engine.threads for engine in engines] == [{"dlcv-infer"}, {"dlcv-infer-1"}]


def test_what_is_called_runs_on_the_first_engine_alone(classify_bundle: Path) -> None:
    first, second = Device(classify_bundle, "a"), Device(classify_bundle, "b")
    with on(classify_bundle, first, second) as model:
        for number in range(20):
            pixels = picture(number)[None]
            assert model.run(pixels)["probabilities"].argmax() == number % 3
        assert {model.call(lambda: threading.current_thread().name) for _ in range(20)} == {
            "dlcv-infer"
        }
    assert second.batches == []


# From names of devices to engines


@pytest.fixture
def loaded(classify_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """Engines that were loaded, on machines with two GPUs, by the setting `device`; GPU 7 does not start."""
    engines: list[Device] = []

    def load_engine(*_: object, options: EngineOptions, **__: object) -> Device:
        name = options.settings.get("device", "none")
        if name == "7":
            raise EngineError("there is no GPU 7")
        engines.append(Device(classify_bundle, name))
        return engines[-1]

    monkeypatch.setattr(tasks, "load_engine", load_engine)
    return engines


def test_devices_are_given_from_python_or_as_a_setting(
    classify_bundle: Path, loaded: list[Device]
) -> None:
    with dlcv.load(classify_bundle, engine="cuda", devices=(0, 2)) as model:
        assert [engine.info.device for engine in model.engines] == ["0", "2"]
    options = EngineOptions(settings={"device": "1,0"})
    with dlcv.load(classify_bundle, engine="cuda", options=options) as model:
        assert [engine.info.device for engine in model.engines] == ["1", "0"]
    options = EngineOptions(settings={"device": "1"})
    with dlcv.load(classify_bundle, engine="cuda", options=options) as model:
        assert [engine.info.device for engine in model.engines] == ["1"]
    assert all(engine.closed for engine in loaded)


def test_where_one_device_does_not_start_the_others_are_closed(
    classify_bundle: Path, loaded: list[Device]
) -> None:
    with pytest.raises(EngineError, match="there is no GPU 7"):
        dlcv.load(classify_bundle, engine="cuda", devices=(0, 1, 7))
    assert [engine.closed for engine in loaded] == [1, 1]


def test_what_auto_chose_runs_on_every_device(
    classify_bundle: Path, loaded: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    def choose(*_: object, options: EngineOptions, **__: object) -> Choice:
        asked.append(dict(options.settings))
        settings = {**options.settings, "tf32": "true"}
        return Choice(
            engine="cuda", precision="fp32", options=EngineOptions(batch_size=4, settings=settings)
        )

    monkeypatch.setattr(devices_module, "choose", choose)
    with dlcv.load(classify_bundle, devices=(0, 1)) as model:
        assert model.batch_size == 4
    assert asked == [{}], "a tuning knows no devices"
    assert [engine.info.device for engine in loaded] == ["0", "1"]


def test_auto_passes_over_what_does_not_start_and_a_named_engine_is_not_replaced(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    said: list[str] = []

    def load_engine(_: object, name: str, **__: object) -> Device:
        tried.append(name)
        if name in broken:
            raise EngineUnavailableError("factory function returned nullptr")
        return Device(classify_bundle, name)

    monkeypatch.setattr(choice, "why_unavailable", lambda _: None)
    monkeypatch.setattr(tasks, "load_engine", load_engine)
    options = EngineOptions(on_progress=lambda words, _: said.append(words))
    broken = {"trt", "trt-rtx"}
    with dlcv.load(classify_bundle, options=options) as model:
        assert model.engine.info.device == "cuda"
    assert tried == ["trt", "trt-rtx", "cuda"]
    assert "auto: trt does not start, trying the next: factory function" in said[0]
    with pytest.raises(EngineUnavailableError, match="nullptr"):
        dlcv.load(classify_bundle, engine="trt", options=options)
    broken = {"trt", "trt-rtx", "cuda", "ort", "openvino"}
    with pytest.raises(EngineUnavailableError, match="nullptr"):
        dlcv.load(classify_bundle, options=options)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0,a", "devices are numbers of GPUs, such as 0,1, not '0,a'"),
        ("", "devices are numbers of GPUs, such as 0,1, not ''"),
        ("1,1", "each named once, such as 0,1, not 1,1"),
        ("-1", "devices are numbers of GPUs, such as 0,1, not '-1'"),
    ],
)
def test_what_names_no_devices_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        devices_from_text(text)


def test_devices_are_named_once_and_are_gpus(classify_bundle: Path) -> None:
    with pytest.raises(InputError, match="say the same; give one of them"):
        options_and_devices(EngineOptions(settings={"device": "0"}), (0, 1))
    with pytest.raises(InputError, match="each named once, such as 0,1, not none"):
        options_and_devices(EngineOptions(), ())
    with pytest.raises(InputError, match="engine 'ort' runs on the CPU, and devices are numbers"):
        dlcv.load(classify_bundle, engine="ort", devices=(0, 1))


def test_a_server_loads_its_models_on_the_devices_too(
    classify_bundle: Path, loaded: list[Device]
) -> None:
    from dlcv.runtime.serving.loading import ModelLoader

    with ModelLoader(engine="cuda", devices=(1, 0))(classify_bundle) as model:
        assert [engine.info.device for engine in model.engines] == ["1", "0"]
        assert answer_of(model(picture(1))[0]) == 1
    assert all(engine.closed for engine in loaded)
