"""The CUDA engine on a GPU. The file's folder marks it: it is skipped where there is no NVIDIA driver."""

from typing import Any

import numpy as np
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.engines import Engine, EngineOptions, load_engine, why_unavailable
from dlcv.runtime.engines.cuda import CudaEngine
from dlcv.runtime.errors import EngineError
from dlcv.runtime.measure.parity import replay_golden

BUNDLES = ["cifar10-vit", "camvid-lraspp"]


@pytest.fixture(autouse=True)
def needs_the_engine() -> None:
    if reason := why_unavailable("cuda"):
        pytest.skip(reason)


def load(name: str, **settings: str) -> Engine:
    return load_engine(open_bundle(name), "cuda", options=EngineOptions(settings=settings))


def images(name: str, batch: int) -> dict[str, Any]:
    height, width = (32, 32) if name == "cifar10-vit" else (96, 128)
    random = np.random.default_rng(batch)
    return {"image": random.integers(0, 256, (batch, height, width, 3), np.uint8)}


@pytest.mark.parametrize("graphs", ["false", "true"])
@pytest.mark.parametrize("name", BUNDLES)
def test_golden_cases_pass(name: str, graphs: str) -> None:
    with load(name, cuda_graphs=graphs) as engine:
        assert replay_golden(open_bundle(name), engine).failures == ()
        assert (engine.info.name, engine.info.precision) == ("cuda", "fp32")
        assert "cuda:0" in engine.info.device


@pytest.mark.parametrize("name", BUNDLES)
def test_batches_give_the_answers_of_single_images_with_and_without_graphs(name: str) -> None:
    with load(name) as plain, load(name, cuda_graphs="true") as graphs:
        for batch in (1, 3, 8, 3, 1, 8):
            feeds = images(name, batch)
            expected = [plain.infer({"image": feeds["image"][i : i + 1]}) for i in range(batch)]
            for engine in (plain, graphs):
                for output, answer in engine.infer(feeds).items():
                    whole = np.concatenate([single[output] for single in expected])
                    if output == "mask":
                        assert (answer == whole).mean() > 0.999
                    else:
                        np.testing.assert_allclose(answer, whole, atol=1e-3, rtol=1e-3)


def test_more_shapes_than_buffers_are_kept_for() -> None:
    with load("camvid-lraspp", cuda_graphs="true") as engine:
        first = engine.infer(images("camvid-lraspp", 1))["mask"]
        for batch in range(2, 12):
            engine.infer(images("camvid-lraspp", batch))
        again = engine.infer(images("camvid-lraspp", 1))["mask"]
    assert (first == again).mean() > 0.999


@pytest.mark.parametrize("graphs", ["false", "true"])
def test_the_device_alone_is_timed(graphs: str) -> None:
    with load("cifar10-vit", cuda_graphs=graphs) as engine:
        assert isinstance(engine, CudaEngine)
        seconds = engine.device_seconds(images("cifar10-vit", 4), repeats=5)
    assert len(seconds) == 5
    assert min(seconds) > 0


def test_a_batch_that_does_not_fit_is_refused_and_the_engine_goes_on() -> None:
    with load("camvid-lraspp") as engine:
        huge = np.broadcast_to(np.zeros((1, 1024, 1024, 3), np.uint8), (200_000, 1024, 1024, 3))
        with pytest.raises(EngineError, match="batch of 200000; give a smaller --batch"):
            engine.infer({"image": huge})
        assert len(engine.infer(images("camvid-lraspp", 1))["mask"]) == 1


def test_loading_and_running_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with load("cifar10-vit") as engine:
        engine.infer(images("cifar10-vit", 1))
    assert capfd.readouterr() == ("", "")
