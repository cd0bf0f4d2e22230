"""What doctor says of GPUs, engines and the cache."""

from pathlib import Path

import pytest

from dlcv.runtime.engines import registry
from dlcv.runtime.machine.gpu import Driver, Gpu
from dlcv.runtime.measure import doctor
from dlcv.runtime.measure.doctor import doctor_lines

H100 = Gpu(index=0, name="NVIDIA H100", compute_capability=(9, 0), memory_bytes=80 * 2**30)
WITH_GPU = Driver(cuda=(13, 1), gpus=(H100,), fault=None)
OLD = Driver(cuda=(12, 4), gpus=(H100,), fault=None)
NONE = Driver(cuda=None, gpus=(), fault="no NVIDIA driver is here")


def said(monkeypatch: pytest.MonkeyPatch, found: Driver) -> dict[str, str]:
    """Return doctor's lines by their first word."""
    for module in (doctor, registry):
        monkeypatch.setattr(module, "driver", lambda: found)
    return {line.split(maxsplit=1)[0]: line for line in doctor_lines() if line}


def test_a_gpu_is_shown_with_the_drivers_cuda_version(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(monkeypatch, WITH_GPU)
    assert lines["NVIDIA"].endswith(
        "driver for CUDA 13.1; GPU 0 is NVIDIA H100 (compute capability 9.0, 80 GiB)"
    )
    assert "needs an NVIDIA GPU" not in lines["cuda"]


def test_an_engine_that_is_not_installed_shows_its_command_and_what_else_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "is_importable", lambda module: False)
    lines = said(monkeypatch, NONE)
    assert lines["openvino"].endswith("is not installed; get it with pip install 'dlcv[openvino]'")
    assert lines["trt"].endswith(
        "is not installed; get it with pip install 'dlcv[trt]'; it also needs an NVIDIA GPU with a "
        "driver for CUDA 13.0"
    )
    assert lines["NVIDIA"].endswith("no NVIDIA driver is here")
    assert lines["ONNX"].endswith("get it with pip install 'dlcv[cpu]'")


def test_an_old_driver_is_said_to_be_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_importable", lambda module: True)
    lines = said(monkeypatch, OLD)
    assert "is too old: it supports CUDA 12.4, needed is 13.0; update the driver" in lines["trt"]


def test_ready_engines_providers_and_cache_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "a.bin").write_bytes(bytes(1_500_000))
    lines = said(monkeypatch, NONE)
    assert lines["ort"].endswith("ONNX Runtime, CPU            ready")
    assert "CPUExecutionProvider" in lines["ONNX"]
    assert f"{tmp_path}, 1 files, 1.5 MB" in lines["cache"]
