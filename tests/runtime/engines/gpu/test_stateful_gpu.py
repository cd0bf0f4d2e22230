"""A captioner on a GPU: its cache stays there, and it says what it says on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcv
from dlcv.runtime import SearchOptions
from dlcv.runtime.engines import EngineOptions, why_unavailable
from dlcv.runtime.engines.stateful import HostRuns

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 0]], np.uint8)


@pytest.mark.parametrize("settings", [{}, {"cuda_graphs": "true"}])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_on_the_gpu_gives_the_captions_of_the_cpu(
    caption_bundle: Path, beams: int, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_unavailable("cuda"):
        pytest.skip(reason)
    pixels = np.broadcast_to(COLORS[:, None, None], (4, 8, 8, 3))

    def captions(engine: str, own: dict[str, str]) -> Any:
        options = EngineOptions(batch_size=4, settings=own)
        search = SearchOptions(beams=beams)
        with dlcv.load(caption_bundle, engine=engine, options=options, search=search) as model:
            return [model.run(pixels) for _ in range(3)]

    [expected, *_] = captions("ort", {})
    monkeypatch.setattr(HostRuns, "run", None)  # nobody may go through the host
    for found in captions("cuda", settings):
        np.testing.assert_array_equal(found["tokens"], expected["tokens"])
        np.testing.assert_allclose(found["attention"], expected["attention"], atol=1e-4)
        np.testing.assert_allclose(found["log_probability"], expected["log_probability"], atol=1e-3)
