"""What all tests share: marks by folder and where the datasets are."""

import ctypes
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
FOLDERS_WITH_MARK = {"runtime", "train", "export", "cli", "gpu"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the folders that it lies in; skip those for a GPU where there is none."""
    no_gpu = pytest.mark.skip(reason="needs a GPU: the NVIDIA driver (libcuda.so.1) is not here")
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        for name in FOLDERS_WITH_MARK.intersection(item.path.relative_to(TESTS).parts):
            item.add_marker(name)
        if item.get_closest_marker("gpu") and not _has_nvidia_driver():
            item.add_marker(no_gpu)


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the datasets: DLCV_DATA, or shared/data beside the repository."""
    root = Path(os.environ.get("DLCV_DATA") or REPOSITORY.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no datasets at {root}; set DLCV_DATA to the folder that holds them")
    return root
