"""Runs that go on from each other give the same through the host and on ONNX Runtime's device.

ONNX Runtime's CPU provider stands for the GPU: IO binding is the same there, but for where the memory is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from dlcv.runtime.engines import EngineModel, EngineOptions
from dlcv.runtime.engines.ort import OrtEngine, reason_from_error
from dlcv.runtime.engines.ort_stateful import OrtRuns
from dlcv.runtime.engines.registry import ENGINES
from dlcv.runtime.engines.stateful import HostRuns, State, StatefulRuns, stateful_runs
from dlcv.runtime.errors import EngineError, InputError

ROWS = 3
HELD = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)


def model() -> bytes:
    """total' = 2 total + step; count' = count + 1; seen = total' + held; first = step."""
    make, value, f, i = onnx.helper.make_node, onnx.helper.make_tensor_value_info, 1, 6
    constants = {"two": np.float32(2), "one": np.int32(1)}
    graph = onnx.helper.make_graph(
        [
            make("Mul", ["total", "two"], ["doubled"]),
            make("Add", ["doubled", "step"], ["next_total"]),
            make("Add", ["count", "one"], ["next_count"]),
            make("Add", ["next_total", "held"], ["seen"]),
            make("Identity", ["step"], ["first"]),
        ],
        "state",
        [
            value("step", f, ["batch", 2]),
            value("total", f, ["batch", 2]),
            value("count", i, ["batch"]),
            value("held", f, ["batch", 2]),
        ],
        [
            value("seen", f, ["batch", 2]),
            value("next_total", f, ["batch", 2]),
            value("first", f, ["batch", 2]),
            value("next_count", i, ["batch"]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    made: bytes = onnx.helper.make_model(
        graph, opset_imports=opset, ir_version=10
    ).SerializeToString()
    return made


@pytest.fixture
def engine() -> Iterator[OrtEngine]:
    with OrtEngine(EngineModel(onnx=model()), EngineOptions(threads=1)) as engine:
        yield engine


@contextmanager
def errors(batch: int) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        raise EngineError(f"batch {batch}: {reason_from_error(e)}") from e


def on_device(engine: OrtEngine, state: State) -> OrtRuns:
    specs = engine.inputs, engine.outputs
    return OrtRuns(engine._session, state, specs=specs, place=("cpu", 0), errors=errors)


def state() -> State:
    return State(
        carried={"next_total": "total", "next_count": "count"},
        first={"total": np.ones((ROWS, 2), np.float32), "count": np.zeros(ROWS, np.int32)},
        held={"held": HELD},
    )


def step(number: int) -> dict[str, Any]:
    return {"step": np.random.default_rng(number).normal(size=(ROWS, 2)).astype(np.float32)}


def told(runs: StatefulRuns, *, orders: dict[int, list[int]]) -> list[dict[str, Any]]:
    """The outputs of five runs; before some of them the rows are reordered."""
    found = []
    for number in range(5):
        if number in orders:
            runs.reorder(np.array(orders[number]))
        found.append(runs.run(step(number)))
    return found


@pytest.mark.parametrize("begin", [HostRuns, on_device])
def test_what_is_carried_is_the_input_of_the_next_run(engine: OrtEngine, begin: Any) -> None:
    total = np.ones((ROWS, 2), np.float32)
    for number, outputs in enumerate(told(begin(engine, state()), orders={})):
        total = 2 * total + step(number)["step"]
        assert set(outputs) == {"seen", "first"}, "what is carried stays where it is"
        np.testing.assert_array_equal(outputs["seen"], total + HELD)
        np.testing.assert_array_equal(outputs["first"], step(number)["step"])


@pytest.mark.parametrize(
    "orders",
    [{1: [2, 0, 1]}, {1: [0, 0, 0], 2: [1, 2, 2]}, {2: [0, 1, 2]}, {1: [2, 1, 0], 4: [1, 1, 2]}],
)
def test_rows_are_reordered_alike(engine: OrtEngine, orders: dict[int, list[int]]) -> None:
    through_host = told(HostRuns(engine, state()), orders=orders)
    kept = told(on_device(engine, state()), orders=orders)
    for expected, found in zip(through_host, kept, strict=True):
        assert list(expected) == list(found)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("begin", [HostRuns, on_device])
def test_arrays_are_the_callers(engine: OrtEngine, begin: Any) -> None:
    given = state()
    runs = begin(engine, given)
    first = runs.run(step(0))
    copies = {name: array.copy() for name, array in first.items()}
    for number in range(1, 4):
        runs.run(step(number))
    for name, array in copies.items():
        np.testing.assert_array_equal(first[name], array)
    assert (given.first["total"] == 1).all(), "a state can be begun with again"
    again = begin(engine, given).run(step(0))
    np.testing.assert_array_equal(again["seen"], first["seen"])


@pytest.mark.parametrize("begin", [HostRuns, on_device])
def test_inputs_that_do_not_fit_are_refused(engine: OrtEngine, begin: Any) -> None:
    with pytest.raises(InputError, match="the graph takes step, total, count, held"):
        begin(engine, state()).run({"token": np.zeros(ROWS, np.int32)})
    with pytest.raises(InputError, match="the graph takes"):
        begin(engine, state()).run({"step": np.zeros((ROWS + 1, 2), np.float32)})


def test_what_onnx_runtime_raises_is_converted(engine: OrtEngine) -> None:
    runs = on_device(engine, state())
    runs.run(step(0))
    with pytest.raises(EngineError, match="batch 3: "):
        runs.run({"step": np.zeros((2, 5), np.float32)})


def test_an_engine_keeps_a_state_where_its_entry_says_so(
    engine: OrtEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(stateful_runs(engine, state()), HostRuns)
    monkeypatch.setitem(ENGINES, "ort", replace(ENGINES["ort"], keeps_state=True))
    monkeypatch.setattr(OrtEngine, "begin", on_device, raising=False)
    assert isinstance(stateful_runs(engine, state()), OrtRuns)


def test_an_engine_that_says_so_has_the_ability() -> None:
    for entry in ENGINES.values():
        if entry.keeps_state:
            assert callable(getattr(entry.engine_class(), "begin", None))
    assert any(entry.keeps_state for entry in ENGINES.values())
