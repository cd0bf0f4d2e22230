"""One running model answers any number of threads, each in its own order, and always comes to an end."""

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcv
from dlcv.runtime import Classification, Predictor, Refused, Segmentation, open_bundle
from dlcv.runtime.bundle.schema import Graph
from dlcv.runtime.engines import EngineOptions, why_unavailable
from dlcv.runtime.engines.base import Arrays, EngineBase
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import EngineError, ImageError, ModelClosedError, QueueFullError

SECONDS = 10.0  # to wait for what should come at once
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def picture(number: int, *, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """An image of one of three colours: the class of toy bundles is `number % 3`."""
    return np.broadcast_to(COLORS[number % 3], (*size, 3)).copy()


def answer_of(result: Any) -> int:
    """The class of a toy bundle's answer."""
    if isinstance(result, Segmentation):
        return int(result.graph_mask[0, 0])
    assert isinstance(result, Classification)
    return result.label.index


def masks(feeds: Any) -> Arrays:
    pixels = feeds["image"]
    return {
        "mask": pixels.argmax(3).astype(np.uint8),
        "confidence": pixels.max(3).astype(np.float32) / 255,
    }


class Gate:
    """Computes masks when it is let; `entered` counts the calls that came to it."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, feeds: Any) -> Arrays:
        self.entered.release()
        assert self.open.wait(SECONDS), "nobody opened the gate"
        return masks(feeds)


@contextmanager
def gated(
    bundle: Path, *, batch_size: int = 4, workers: int = 2
) -> Iterator[tuple[Predictor, FakeEngine, Gate]]:
    gate, opened = Gate(), open_bundle(bundle)
    engine = FakeEngine(opened.graph(), gate)
    with Predictor(opened, engine, batch_size=batch_size, workers=workers) as model:
        try:
            yield model, engine, gate
        finally:
            gate.open.set()


def until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.002)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dlcv-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    gc.collect()
    until(lambda: not our_threads())
    yield
    gc.collect()
    until(lambda: not our_threads())


# Batches


def test_what_waits_becomes_batches_of_equal_shapes_and_no_more_than_asked(
    segment_bundle: Path,
) -> None:
    wide, tall = picture(1, size=(16, 32)), picture(2, size=(32, 16))
    with gated(segment_bundle, workers=1) as (model, engine, gate):
        first = model.submit(wide)
        assert gate.entered.acquire(timeout=SECONDS), "one image does not wait for others"
        others = [model.submit(image) for image in [wide, tall] * 5]
        until(lambda: model.queue_size and all(f.running() for f in others))
        gate.open.set()
        answers = [answer_of(future.result(SECONDS)) for future in [first, *others]]
    assert answers == [1] + [1, 2] * 5
    assert sorted(engine.calls[1:]) == [
        (1, 16, 32, 3),
        (1, 32, 16, 3),
        (4, 16, 32, 3),
        (4, 32, 16, 3),
    ]


def test_images_of_many_callers_share_a_batch(segment_bundle: Path) -> None:
    with gated(segment_bundle, batch_size=8) as (model, engine, gate):
        first = model.submit(picture(0))
        assert gate.entered.acquire(timeout=SECONDS)
        with ThreadPoolExecutor(8) as pool:
            callers = [pool.submit(model, picture(number)) for number in range(8)]
            until(lambda: len(model._model._waiting) == 9)
            time.sleep(0.1)  # until all are decoded
            gate.open.set()
            assert [answer_of(c.result(SECONDS)[0]) for c in callers] == [n % 3 for n in range(8)]
        first.result(SECONDS)
    assert engine.calls == [(1, 32, 32, 3), (8, 32, 32, 3)]


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_eight_threads_at_once_get_their_own_answers_in_their_own_order(
    classify_bundle: Path, engine: str
) -> None:
    if reason := why_unavailable(engine):
        pytest.skip(reason)

    def calls(start: int) -> list[int]:
        return [answer_of(model(picture(start + number))[0]) for number in range(20)]

    def stream(start: int) -> list[int]:
        return [answer_of(r) for r in model.stream(picture(start + n) for n in range(20))]

    def submit(start: int) -> list[int]:
        futures = [model.submit(picture(start + number)) for number in range(20)]
        return [answer_of(future.result(SECONDS)) for future in futures]

    with dlcv.load(classify_bundle, engine=engine, options=EngineOptions(batch_size=4)) as model:
        ways = [calls, stream, submit, stream, calls, submit, calls, stream]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda way, start: way(start), ways, range(8)))
    assert found == [[(start + number) % 3 for number in range(20)] for start in range(8)]


def test_two_streams_in_one_thread_do_not_wait_for_each_other(classify_bundle: Path) -> None:
    images = [picture(number) for number in range(100)]
    with dlcv.load(classify_bundle, options=EngineOptions(batch_size=1)) as model:
        pairs = list(zip(model.stream(images), model.stream(images), strict=True))
    assert [(answer_of(a), answer_of(b)) for a, b in pairs] == [(n % 3, n % 3) for n in range(100)]


def test_a_stream_yields_an_answer_before_it_takes_the_next_image(classify_bundle: Path) -> None:
    with dlcv.load(classify_bundle) as model:
        given: list[int] = []

        def camera() -> Iterator[np.ndarray]:
            for number in range(3):
                given.append(number)
                yield picture(number)
                time.sleep(0.2)

        lags = [len(given) - number for number, _ in enumerate(model.stream(camera()), start=1)]
    assert max(lags) <= 1, "a slow source is not read ahead of its answers"


class Device(EngineBase):
    """Computes when a run is finished, as a GPU may; keeps count of the runs that are under way."""

    def __init__(self, graph: Graph) -> None:
        fake = FakeEngine(graph)
        self._info, self._inputs, self._outputs = fake.info, fake.inputs, fake.outputs
        self.under_way: list[int] = []
        self.most = 0

    @property
    def batches_in_flight(self) -> int:
        return 2

    def start(self, feeds: Any) -> Callable[[], Arrays]:
        number = max(self.under_way, default=0) + 1
        self.under_way.append(number)
        self.most = max(self.most, len(self.under_way))

        def finish() -> Arrays:
            assert self.under_way.pop(0) == number, "runs are finished in order"
            time.sleep(0.002)
            return masks(feeds)  # read only now: the memory must be as it was

        return finish

    def infer(self, feeds: Any) -> Arrays:
        assert not self.under_way
        return masks(feeds)

    def close(self) -> None:
        assert not self.under_way


def test_a_device_has_two_batches_in_flight_whose_memory_stays_as_it_was(
    segment_bundle: Path,
) -> None:
    bundle = open_bundle(segment_bundle)
    engine = Device(bundle.graph())
    with Predictor(bundle, engine, batch_size=4, workers=4) as model:
        images = [picture(n, size=(8, 8 + 8 * (n % 2))) for n in range(200)]
        assert [answer_of(r) for r in model.stream(images)] == [n % 3 for n in range(200)]
        assert answer_of(model(images[1])[0]) == 1, "what is started last is finished too"
        assert model.run(images[2][None])["mask"][0, 0, 0] == 2
    assert engine.most == 2


# One caller's trouble is no other's


def test_a_bad_image_touches_no_other_in_its_batch(segment_bundle: Path, tmp_path: Path) -> None:
    with gated(segment_bundle) as (model, _, gate):
        futures = [model.submit(s) for s in (picture(0), tmp_path / "gone.png", picture(2))]
        gate.open.set()
        assert answer_of(futures[0].result(SECONDS)) == 0
        with pytest.raises(ImageError, match="no such file"):
            futures[1].result(SECONDS)
        assert answer_of(futures[2].result(SECONDS)) == 2


def test_an_engine_that_fails_once_answers_the_next_batch(segment_bundle: Path) -> None:
    def fail_on_blue(feeds: Any) -> Arrays:
        if feeds["image"][..., 2].any():
            raise EngineError("out of memory")
        return masks(feeds)

    bundle = open_bundle(segment_bundle)
    with Predictor(bundle, FakeEngine(bundle.graph(), fail_on_blue)) as model:
        with pytest.raises(EngineError, match="out of memory"):
            model(picture(2))
        assert answer_of(model(picture(1))[0]) == 1


def test_a_graph_that_ignores_its_batch_is_said_in_a_sentence(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)

    def one_row(feeds: Any) -> Arrays:
        return {name: array[:1] for name, array in masks(feeds).items()}

    with Predictor(bundle, FakeEngine(bundle.graph(), one_row)) as model:
        results = [model.submit(picture(1)) for _ in range(12)]
        errors = [str(e) for future in results if (e := future.exception(SECONDS))]
    assert errors
    assert all(e.startswith("the graph ignores its batch: of ") for e in errors)


def _raise_at_the_first(results: Iterator[Any]) -> None:
    for _ in results:
        raise ZeroDivisionError


def test_a_consumer_that_raises_leaves_the_model_usable(classify_bundle: Path) -> None:
    with dlcv.load(classify_bundle) as model:
        with pytest.raises(ZeroDivisionError):
            _raise_at_the_first(model.stream(picture(n) for n in range(1000)))
        assert answer_of(model(picture(1))[0]) == 1


def test_an_abandoned_stream_lets_go_of_its_places(classify_bundle: Path) -> None:
    with dlcv.load(classify_bundle, options=EngineOptions(batch_size=2)) as model:
        for _ in range(20):
            next(model.stream([picture(0)] * 50))
        gc.collect()
        until(lambda: not model._model._waiting)
        assert len(model([picture(n) for n in range(50)])) == 50


def test_a_cancelled_image_gives_its_place_back(segment_bundle: Path) -> None:
    with gated(segment_bundle, batch_size=1, workers=1) as (model, _, gate):
        futures = [model.submit(picture(0)) for _ in range(model.queue_size)]
        assert futures[-1].cancel()
        gate.open.set()
        until(lambda: not model._model._waiting)
        assert [f.cancelled() for f in futures[-2:]] == [False, True]
        assert answer_of(model(picture(1))[0]) == 1


# Bounds


def test_a_full_model_refuses_without_waiting_or_waits(segment_bundle: Path) -> None:
    with gated(segment_bundle, batch_size=1, workers=1) as (model, _, gate):
        futures: list[Future[Any]] = [model.submit(picture(0)) for _ in range(model.queue_size)]
        with pytest.raises(QueueFullError, match=r"\d+ of the model's \d+ places are taken"):
            model.submit(picture(0), wait=False)
        waiting = threading.Thread(target=lambda: futures.append(model.submit(picture(1))))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        gate.open.set()
        waiting.join(SECONDS)
        assert answer_of(futures[-1].result(SECONDS)) == 1


def test_more_shapes_than_lent_pieces_of_memory_come_through(segment_bundle: Path) -> None:
    sizes = [(8 * (1 + n % 4), 8 * (1 + n // 4)) for n in range(16)]
    bundle = open_bundle(segment_bundle)
    with Predictor(bundle, FakeEngine(bundle.graph(), masks), workers=4) as model:
        images = [picture(n, size=sizes[n % 16]) for n in range(200)]
        assert [answer_of(r) for r in model.stream(images)] == [n % 3 for n in range(200)]


def test_the_largest_image_of_a_dynamic_graph_fits_into_lent_memory(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)
    engine = FakeEngine(bundle.graph(), masks)
    seen: list[int] = []
    lend = engine.host_memory

    def lent(size: int) -> Any:
        seen.append(size)
        return lend(size)

    engine.host_memory = lent  # type: ignore[method-assign]
    with Predictor(bundle, engine, batch_size=3) as model:
        model(picture(0, size=(100, 100)))
    assert set(seen) == {3 * 32 * 32 * 3}


# The end


def test_close_during_streams_and_calls_is_an_error_for_those_who_wait(
    segment_bundle: Path,
) -> None:
    errors: list[BaseException] = []

    def work(way: Callable[[], object]) -> None:
        try:
            way()
        except BaseException as e:  # noqa: BLE001  # looked at below
            errors.append(e)

    with gated(segment_bundle, batch_size=1) as (model, _, gate):
        ways: list[Callable[[], object]] = [
            lambda: list(model.stream(picture(n) for n in range(10**6))),
            lambda: model([picture(0)] * 1000),
            lambda: [model(picture(0)) for _ in range(1000)],
            lambda: [model.submit(picture(0)) for _ in range(1000)],
            lambda: model.run(np.zeros((1, 8, 8, 3), np.uint8)),
        ]
        threads = [threading.Thread(target=work, args=(way,)) for way in ways]
        for thread in threads[:-1]:
            thread.start()
        assert gate.entered.acquire(timeout=SECONDS)
        threads[-1].start()  # or its one run could be what is computed now, and be answered
        closing = threading.Thread(target=model.close)
        closing.start()
        gate.open.set()
        for thread in (closing, *threads):
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert len(errors) == len(ways)
    assert all(isinstance(e, ModelClosedError) for e in errors), errors
    assert all("closed" in str(e) and "load the bundle again" in str(e) for e in errors)


def test_a_closed_model_says_so_and_can_be_closed_again(classify_bundle: Path) -> None:
    model = dlcv.load(classify_bundle)
    model.close()
    model.close()
    for way in (
        model,
        model.submit,
        lambda i: next(model.stream([i])),
        lambda i: model.run(i[None]),
    ):
        with pytest.raises(ModelClosedError, match="the model is closed; load the bundle again"):
            way(picture(0))


def test_the_engine_is_used_and_closed_by_one_thread(segment_bundle: Path) -> None:
    class Noted(EngineBase):
        def __init__(self, graph: Graph) -> None:
            fake = FakeEngine(graph, masks)
            self._info, self._inputs, self._outputs = fake.info, fake.inputs, fake.outputs
            self.threads: set[str] = set()

        def infer(self, feeds: Any) -> Arrays:
            self.threads.add(threading.current_thread().name)
            return masks(feeds)

        def close(self) -> None:
            self.threads.add(threading.current_thread().name)

    bundle = open_bundle(segment_bundle)
    engine = Noted(bundle.graph())
    with Predictor(bundle, engine) as model, ThreadPoolExecutor(4) as pool:
        list(pool.map(model, [picture(n) for n in range(20)]))
        list(model.stream([picture(0)] * 5))
        model.run(np.zeros((1, 8, 8, 3), np.uint8))
    assert engine.threads == {"dlcv-infer"}


def test_an_error_of_closing_the_engine_is_raised_by_close(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)
    engine = FakeEngine(bundle.graph())

    def fail() -> None:
        raise EngineError("CUDA failed")

    engine.close = fail  # type: ignore[method-assign]
    model = Predictor(bundle, engine)
    with pytest.raises(EngineError, match="CUDA failed"):
        model.close()


def test_an_engine_without_memory_for_batches_is_closed(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)
    engine = FakeEngine(bundle.graph())

    def refuse(size: int) -> Any:
        raise EngineError("the host has no page-locked memory")

    engine.host_memory = refuse  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="page-locked"):
        Predictor(bundle, engine)
    assert engine.closed


def test_a_forgotten_model_ends_its_thread_and_frees_its_engine(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)
    engine = FakeEngine(bundle.graph(), masks)
    model = Predictor(bundle, engine)
    model(picture(0))
    del model
    gc.collect()
    until(lambda: engine.closed)


def test_a_callback_may_submit_but_not_wait(segment_bundle: Path) -> None:
    answers: list[Any] = []
    done = threading.Event()

    def callback(future: Future[Any]) -> None:
        try:
            model(picture(1))
        except EngineError as e:
            answers.append(str(e))
        model.submit(picture(2)).add_done_callback(last)

    def last(future: Future[Any]) -> None:
        answers.append(answer_of(future.result()))
        done.set()

    with gated(segment_bundle) as (model, _, gate):
        model.submit(picture(0)).add_done_callback(callback)
        gate.open.set()
        assert done.wait(SECONDS)
    assert answers[0].startswith("a callback of a future runs on the inference thread")
    assert answers[1:] == [2]


def test_a_callback_may_close_the_model(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)
    engine = FakeEngine(bundle.graph(), masks)
    model = Predictor(bundle, engine)
    model.submit(picture(0)).add_done_callback(lambda _: model.close())
    until(lambda: engine.closed)


ENDS = {
    "not closed": "list(model.stream([image] * 3))",
    "an abandoned stream": "stream = model.stream([image] * 10**6); next(stream)",
    "futures that nobody waits for": "futures = [model.submit(image) for _ in range(20)]",
    "an exception": "next(model.stream([image] * 100)); raise SystemExit(7)",
}


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_whatever_is_under_way(
    classify_bundle: Path, end: str, engine: str
) -> None:
    if reason := why_unavailable(engine):
        pytest.skip(reason)
    program = (
        "import dlcv, numpy\n"
        f"model = dlcv.load({str(classify_bundle)!r}, engine={engine!r})\n"
        f"image = numpy.zeros((8, 8, 3), 'uint8')\n{ENDS[end]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (7 if end == "an exception" else 0, "")


def _in_the_child(model: Predictor, queue: Any) -> None:
    said = []
    for way in (model, model.submit, lambda i: next(model.stream([i]))):
        try:
            way(picture(0))
        except ModelClosedError as e:
            said.append(str(e))
    model.close()
    queue.put(said)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_model_in_a_forked_process_says_to_load_it_there(classify_bundle: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with dlcv.load(classify_bundle) as model:
        model(picture(0))
        child = context.Process(target=_in_the_child, args=(model, queue))
        child.start()
        child.join(SECONDS)
        assert child.exitcode == 0
        assert answer_of(model(picture(1))[0]) == 1, "the parent's goes on"
    said = queue.get()
    assert len(said) == 3
    assert all("loaded before the process was forked" in text for text in said)


def test_a_refused_source_is_passed_through_a_stream(classify_bundle: Path) -> None:
    refused = Refused(source="x.png", reason="no such file")
    with dlcv.load(classify_bundle) as model:
        first, second = model.stream([refused, picture(1)])
    assert first is refused
    assert answer_of(second) == 1
