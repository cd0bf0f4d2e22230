"""What the driver is found to be, asked of small libraries that stand in for libcuda."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dlcv.runtime.engines import registry, why_unavailable
from dlcv.runtime.machine.gpu import Driver, driver

# A libcuda of one GPU; -D changes what it answers.
SOURCE = r"""
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Toy 9000", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? device : -1;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)80 << 30; return 0; }
"""


def fake_driver(folder: Path, *, init: int = 0, version: int = 13010, gpus: int = 1) -> Driver:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc, to compile a library that stands in for libcuda")
    library = folder / "libfakecuda.so"
    defines = [f"-DINIT={init}", f"-DVERSION={version}", f"-DGPUS={gpus}"]
    command = [compiler, "-shared", "-fPIC", "-x", "c", *defines, "-o", str(library), "-"]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    return driver(str(library))


def test_gpus_are_listed_with_name_capability_and_memory(tmp_path: Path) -> None:
    found = fake_driver(tmp_path, gpus=2)
    assert (found.cuda, found.fault) == ((13, 1), None)
    assert [str(gpu) for gpu in found.gpus] == [
        "Toy 9000 (compute capability 9.0, 80 GiB)",
        "Toy 9000 (compute capability 9.1, 80 GiB)",
    ]
    assert found.why_unfit((13, 0)) is None


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"init": 999}, "the NVIDIA driver does not start (cuInit returned 999); run nvidia-smi"),
        ({"init": 100}, "the NVIDIA driver sees no GPU; see CUDA_VISIBLE_DEVICES"),
        ({"gpus": 0}, "the NVIDIA driver sees no GPU; see CUDA_VISIBLE_DEVICES"),
        (
            {"version": 12040},
            "is too old: it supports CUDA 12.4, needed is 13.0; update the driver",
        ),
    ],
)
def test_each_fault_of_a_driver_is_one_sentence(
    tmp_path: Path, answers: dict[str, int], sentence: str
) -> None:
    fault = fake_driver(tmp_path, **answers).why_unfit((13, 0))
    assert fault is not None
    assert sentence in fault


def test_without_a_driver_the_sentence_says_how_to_get_one() -> None:
    found = driver("libnowhere.so.1")
    assert (found.cuda, found.gpus) == (None, ())
    assert found.fault == (
        "no NVIDIA driver is here (libnowhere.so.1 cannot be loaded); install the driver, or in a "
        "container pass the GPU through (docker run --gpus all)"
    )


@pytest.mark.parametrize("name", ["cuda", "trt", "trt-rtx"])
def test_an_old_driver_makes_the_gpu_engines_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    old = fake_driver(tmp_path, version=12080)
    monkeypatch.setattr(registry, "driver", lambda: old)
    monkeypatch.setattr(registry, "is_importable", lambda module: True)
    monkeypatch.setattr(
        registry, "installed_version", lambda name: None if name == "onnxruntime" else "1"
    )
    assert "needs an NVIDIA GPU: the NVIDIA driver is too old: it supports CUDA 12.8" in str(
        why_unavailable(name)
    )
