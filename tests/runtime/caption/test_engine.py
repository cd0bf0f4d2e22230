"""A captioner whose cache stays on the device says what one says whose cache goes through the host."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcv
from dlcv.runtime import SearchOptions
from dlcv.runtime.engines import EngineOptions
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.engines.ort_stateful import OrtRuns
from dlcv.runtime.engines.registry import ENGINES
from dlcv.runtime.engines.stateful import HostRuns, State

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 0]], np.uint8)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_on_the_device_gives_the_same_captions(
    caption_bundle: Path, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[OrtRuns] = []

    def begin(engine: OrtEngine, state: State) -> OrtRuns:
        begun.append(
            OrtRuns(
                engine._session,
                state,
                specs=(engine.inputs, engine.outputs),
                place=("cpu", 0),
                errors=lambda _: nullcontext(),
            )
        )
        return begun[-1]

    def captions() -> list[Any]:
        options = EngineOptions(threads=1, batch_size=4)
        search = SearchOptions(beams=beams)
        with dlcv.load(caption_bundle, engine="ort", options=options, search=search) as model:
            arrays = model.run(np.broadcast_to(COLORS[:, None, None], (4, 8, 8, 3)))
            return [arrays[name] for name in ("tokens", "log_probability", "attention")]

    through_host = captions()
    assert not begun
    monkeypatch.setitem(ENGINES, "ort", replace(ENGINES["ort"], keeps_state=True))
    monkeypatch.setattr(OrtEngine, "begin", begin, raising=False)
    kept = captions()
    assert len(begun) == 1, "one state for a batch"
    for expected, found in zip(through_host, kept, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len({tuple(tokens) for tokens in kept[0]}) > 1


def test_a_cache_is_not_uploaded_for_each_word(
    caption_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[set[str]] = []
    run = HostRuns.run

    def noted(runs: HostRuns, feeds: Any) -> Any:
        given.append(set(feeds))
        return run(runs, feeds)

    monkeypatch.setattr(HostRuns, "run", noted)
    with dlcv.load(caption_bundle, engine="ort") as model:
        model.run(np.zeros((2, 8, 8, 3), np.uint8))
    assert given
    assert all(names == {"token", "position"} for names in given)
