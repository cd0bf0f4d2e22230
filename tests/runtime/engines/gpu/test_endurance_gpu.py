"""What shows only in the long run on a GPU: memory, sizes that recur, a full card, Ctrl-C."""

import gc
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dlcv
from dlcv.runtime import EngineOptions, open_bundle
from dlcv.runtime.engines import load_engine, why_unavailable
from dlcv.runtime.engines.base import Engine
from dlcv.runtime.engines.cuda_device import CudaDevice, OutOfDeviceMemoryError
from dlcv.runtime.errors import EngineError
from dlcv.runtime.machine.gpu import driver

ENGINES = ("cuda", "trt", "trt-rtx")
SIZES = [(height, width) for height in (64, 96, 128) for width in (64, 96, 128, 160)]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    return str(request.param)


def free_bytes() -> int:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    status, free, _ = cuda.cudaMemGetInfo()
    assert status == cuda.cudaError_t.cudaSuccess
    return int(free)


def images(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(
        0, 256, (batch, height, width, 3), np.uint8
    )


def with_graphs(engine: str) -> dict[str, str]:
    return {"cuda_graphs": "true"} if engine == "cuda" else {}


def load_and_run(engine: str, options: EngineOptions) -> None:
    with load_engine(open_bundle("imagenet-lite0"), engine, options=options) as loaded:
        loaded.infer({"image": images(64, 224, 224)})


@pytest.mark.parametrize("graphs", [False, True])
def test_memory_does_not_grow_over_200_calls(engine: str, graphs: bool) -> None:
    settings = with_graphs(engine) if graphs else {"cuda_graphs": "false"}
    options = EngineOptions(batch_size=8, settings=settings)
    with load_engine(open_bundle("imagenet-lite0"), engine, options=options) as loaded:
        batch = images(8, 224, 224)
        first = [loaded.infer({"image": batch})["probabilities"] for _ in range(10)][-1]
        before = free_bytes()
        for _ in range(200):
            answer = loaded.infer({"image": batch})["probabilities"]
            np.testing.assert_allclose(answer, first, atol=1e-5)
        assert free_bytes() >= before - 2**20


@pytest.fixture
def segmenter(engine: str) -> Iterator[Engine]:
    options = EngineOptions(batch_size=2)
    bundle = open_bundle("camvid-lraspp")
    with load_engine(bundle, engine, options=options, largest=(160, 160)) as loaded:
        yield loaded


def test_twelve_sizes_that_recur_give_the_cpus_masks_and_memory_settles(segmenter: Engine) -> None:
    with load_engine(open_bundle("camvid-lraspp"), "ort", largest=(160, 160)) as reference:
        expected = {size: reference.infer({"image": images(2, *size)})["mask"] for size in SIZES}
    before = 0
    for number in range(40):
        for size in SIZES:
            mask = segmenter.infer({"image": images(2, *size)})["mask"]
            assert np.mean(mask == expected[size]) > 0.99
        if number == 19:
            before = free_bytes()
    assert free_bytes() >= before - 2**20


def test_a_full_gpu_is_one_sentence_and_the_cached_plan_stays(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))
    bundle, options = open_bundle("imagenet-lite0"), EngineOptions(batch_size=64)
    load_engine(bundle, engine, options=options).close()
    kept = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    gc.collect()
    device = CudaDevice(0)
    try:
        for size in (2**30, 2**26, 2**22):
            while True:
                try:
                    device.allocate(size)
                except OutOfDeviceMemoryError:
                    break
        with pytest.raises(EngineError, match="memory"):
            load_and_run(engine, options)
    finally:
        device.close()
    assert all(path.exists() for path in kept)
    with load_engine(bundle, engine, options=options) as loaded:
        assert loaded.infer({"image": images(1, 224, 224)})["probabilities"].shape == (1, 1000)


def test_the_second_gpu_is_the_one_that_is_named(engine: str) -> None:
    gpus = driver().gpus
    if len(gpus) < 2:
        pytest.skip("this machine has one GPU")
    options = EngineOptions(settings={"device": "1"})
    with load_engine(open_bundle("imagenet-lite0"), engine, options=options) as loaded:
        assert gpus[1].name in loaded.info.device
        assert loaded.infer({"image": images(1, 224, 224)})["probabilities"].shape == (1, 1000)


def test_ctrl_c_leaves_an_engine_that_answers(engine: str) -> None:
    options = EngineOptions(batch_size=8)
    with dlcv.load("imagenet-lite0", engine=engine, options=options) as model:
        photo = images(1, 224, 224)[0]
        (expected,) = model(photo)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            list(model.stream(itertools.repeat(photo)))
        (again,) = model(photo)
        assert again.record()["index"] == expected.record()["index"]


def test_half_precision_on_the_cuda_provider(tmp_path: Path) -> None:
    if reason := why_unavailable("cuda"):
        pytest.skip(reason)
    add = pytest.importorskip("dlcv.export.precision.add")
    options = add.PrecisionOptions(precision="fp16", out=tmp_path / "half")
    bundle = add.add_precision("cifar10-vit", options)
    batch = images(8, 32, 32)
    answers = []
    for precision in ("fp32", "fp16"):
        with load_engine(bundle, "cuda", precision=precision) as loaded:
            assert loaded.info.precision == precision
            answers.append(loaded.infer({"image": batch})["probabilities"])
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-2)
