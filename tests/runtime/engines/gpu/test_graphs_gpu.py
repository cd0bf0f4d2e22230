"""Bundles of two graphs on a GPU: a captioner's words, whose decoder runs once a word with a cache."""

from pathlib import Path

import numpy as np
import pytest

from dlcv.runtime import Caption, Result, SearchOptions, load
from dlcv.runtime.engines import why_unavailable


@pytest.fixture(params=["cuda", "trt", "trt-rtx"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))
    return str(request.param)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_the_cpu(engine: str, beams: int, caption_bundle: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8))
    expected, answered = (
        captions(caption_bundle, images, engine=name, beams=beams) for name in ("ort", engine)
    )
    assert [a.text for a in answered] == [e.text for e in expected]
    for answer, wanted in zip(answered, expected, strict=True):
        assert answer.log_probability == pytest.approx(wanted.log_probability, abs=1e-3)
        assert answer.attention is not None
        assert wanted.attention is not None
        np.testing.assert_allclose(answer.attention, wanted.attention, atol=1e-3)


def captions(bundle: Path, images: list[np.ndarray], *, engine: str, beams: int) -> list[Caption]:
    with load(bundle, engine=engine, search=SearchOptions(beams=beams)) as model:
        results: list[Result] = model(images)
    return [result for result in results if isinstance(result, Caption)]
