"""TensorRT and TensorRT-RTX on a GPU: golden answers, split batches, the cache, precision, device time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.engines import EngineOptions, load_engine, why_unavailable
from dlcv.runtime.engines.tensorrt.compatibility import name_of_gpu
from dlcv.runtime.errors import EngineError, InputError
from dlcv.runtime.machine.cache import cache_folder
from dlcv.runtime.machine.gpu import driver
from dlcv.runtime.measure.parity import replay_golden

BUILTINS = ("cifar10-vit", "camvid-lraspp")


@pytest.fixture(params=["trt", "trt-rtx"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))
    return str(request.param)


def pictures(count: int, *, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("name", BUILTINS)
def test_golden_answers_are_given_again_plain_and_recorded(engine: str, name: str) -> None:
    bundle = open_bundle(name)
    with load_engine(bundle, engine) as loaded:
        assert loaded.info.precision == "fp32"
        assert loaded.info.device == name_of_gpu(driver().gpus[0])
        for _ in range(4):  # from the third time on, the launches are recorded ones
            assert replay_golden(bundle, loaded).failures == ()


def test_a_split_batch_gives_what_its_parts_give(engine: str) -> None:
    image = pictures(11)
    with load_engine(open_bundle("cifar10-vit"), engine, options=EngineOptions(batch_size=4)) as e:
        whole = e.infer({"image": image})
        parts = [e.infer({"image": part}) for part in np.array_split(image, 4)]
    for name, array in whole.items():
        expected = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(array, expected, atol=1e-4)


def test_answers_stay_when_the_engine_runs_again_and_is_closed(engine: str) -> None:
    with load_engine(open_bundle("cifar10-vit"), engine) as loaded:
        first = loaded.infer({"image": pictures(4)})
        kept = {name: array.copy() for name, array in first.items()}
        for seed in range(1, 5):
            loaded.infer({"image": pictures(4, seed=seed)})
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
    with pytest.raises(EngineError, match="the engine is closed"):
        loaded.infer({"image": pictures(1)})


def test_an_engine_is_built_once_and_a_damaged_one_again(engine: str) -> None:
    told: list[str] = []
    options = EngineOptions(on_progress=lambda words, _: told.append(words))

    def load() -> list[str]:
        told.clear()
        with load_engine(open_bundle("cifar10-vit"), engine, options=options) as loaded:
            loaded.infer({"image": pictures(2)})
        return [words for words in told if "because" in words or ": " in words]

    assert "none is cached" in load()[0]
    assert load() == []
    (plan,) = (cache_folder() / "engines").rglob("*.bin")
    plan.write_bytes(plan.read_bytes()[:-100] + b"?" * 100)
    assert "is damaged" in load()[0]
    assert load() == []


def test_a_size_outside_the_profile_is_refused(engine: str) -> None:
    image = np.zeros((1, 1024, 1024, 3), np.uint8)
    with (
        load_engine(open_bundle("camvid-lraspp"), engine) as loaded,
        pytest.raises(InputError, match="height 1024, the engine was built for 8 to 480"),
    ):
        loaded.infer({"image": image})


def test_the_device_is_timed_alone(engine: str) -> None:
    with load_engine(open_bundle("cifar10-vit"), engine) as loaded:
        timer: Any = loaded
        seconds = timer.device_seconds({"image": pictures(8)}, repeats=5)
    assert len(seconds) == 5
    assert min(seconds) > 0


def test_a_batch_beyond_the_memory_suggests_a_smaller_one(engine: str) -> None:
    # The usual batch is 1, because kernels are timed at it; memory is needed for the largest.
    options = EngineOptions(settings={"profile": "1,1,2000000"})
    with pytest.raises(EngineError, match="give a smaller --batch"):
        load_engine(open_bundle("camvid-lraspp"), engine, options=options)


def test_fp16_is_computed_in_fp16(engine: str, tmp_path: Path) -> None:
    precision = pytest.importorskip("dlcv.export.precision.add")
    folder = tmp_path / "half"
    made = precision.add_precision(
        "cifar10-vit", precision.PrecisionOptions(precision="fp16", out=folder)
    )
    with load_engine(made, engine, precision="fp16") as loaded:
        assert loaded.info.precision == "fp16"
        assert replay_golden(made, loaded).failures == ()
