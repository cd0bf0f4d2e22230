"""The running model on a GPU: two batches in flight out of page-locked memory, many threads, one stream."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dlcv
from dlcv.runtime import EngineOptions, Predictor, open_bundle
from dlcv.runtime.engines import load_engine, why_unavailable
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.results import Classification

ENGINES = ("cuda", "trt", "trt-rtx")
PHOTOS = [str(path) for path in sample_paths()] * 20


@pytest.fixture(params=ENGINES)
def model(request: pytest.FixtureRequest) -> Iterator[Predictor]:
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    options = EngineOptions(batch_size=8)
    with dlcv.load("cifar10-vit", engine=request.param, options=options) as loaded:
        yield loaded


def labels(results: object) -> list[int]:
    assert isinstance(results, list)
    return [r.label.index for r in results if isinstance(r, Classification)]


@pytest.fixture(scope="module")
def expected() -> list[int]:
    with dlcv.load("cifar10-vit", engine="ort") as reference:
        return labels(list(reference.stream(PHOTOS)))


def test_a_stream_and_eight_threads_give_what_the_cpu_gives(
    model: Predictor, expected: list[int]
) -> None:
    assert labels(list(model.stream(PHOTOS))) == expected
    with ThreadPoolExecutor(8) as pool:
        assert labels([found[0] for found in pool.map(model, PHOTOS)]) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_runs_out_of_lent_memory_overlap_and_keep_their_answers(engine: str) -> None:
    if reason := why_unavailable(engine):
        pytest.skip(reason)
    random = np.random.default_rng(0)
    with load_engine(
        open_bundle("cifar10-vit"), engine, options=EngineOptions(batch_size=4)
    ) as loaded:
        assert loaded.batches_in_flight == 2
        batches = [loaded.host_memory(4 * 32 * 32 * 3).reshape(4, 32, 32, 3) for _ in range(2)]
        for batch in batches:
            batch[...] = random.integers(0, 256, batch.shape)
        alone = [loaded.infer({"image": batch.copy()})["probabilities"] for batch in batches]
        for _ in range(5):
            finishes = [loaded.start({"image": batch}) for batch in batches]
            for finish, answer in zip(finishes, alone, strict=True):
                np.testing.assert_allclose(finish()["probabilities"], answer, atol=1e-4)
