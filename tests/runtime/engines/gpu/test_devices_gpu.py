"""Several GPUs share a stream, and the batch that suits a GPU is measured once."""

from pathlib import Path

import pytest

import dlcv
from dlcv.runtime.engines import why_unavailable
from dlcv.runtime.engines.first_use_gpu import BATCHES
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.machine.gpu import driver
from dlcv.runtime.results import Classification

PHOTOS = [str(path) for path in sample_paths()] * 50


@pytest.fixture(params=["cuda", "trt", "trt-rtx"])
def engine(request: pytest.FixtureRequest) -> str:
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    return str(request.param)


def labels(results: object) -> list[int]:
    assert isinstance(results, list)
    return [r.label.index for r in results if isinstance(r, Classification)]


def test_every_gpu_of_the_machine_shares_a_stream_in_order(engine: str) -> None:
    devices = tuple(gpu.index for gpu in driver().gpus)
    if len(devices) < 2:
        pytest.skip("this machine has one GPU")
    with dlcv.load("cifar10-vit", engine="ort") as reference:
        expected = labels(list(reference.stream(PHOTOS)))
    with dlcv.load("cifar10-vit", engine=engine, devices=devices) as model:
        assert len(model.engines) == len(devices)
        assert labels(list(model.stream(PHOTOS))) == expected


def test_the_batch_of_a_gpu_is_measured_once_and_runs(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    found = []
    for _ in range(2):
        with dlcv.load("cifar10-vit", engine=engine) as model:
            found.append(model.batch_size)
            assert len(model(PHOTOS)) == len(PHOTOS)
    assert found[0] in BATCHES
    kept = list((tmp_path / "first-use").rglob("*.bin"))
    assert len(kept) <= 1, "none where the speed changed while it was measured"
    if kept:
        assert found[1] == found[0]
        compiled = list((tmp_path / "engines").rglob("*.bin"))
        assert len(compiled) <= 1, "the plan that was measured is the one that runs"
