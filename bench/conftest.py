"""The photos for benchmarks: the 300 sample photos of the data folder, or those that ship."""

import os
import zipfile
from pathlib import Path

import pytest

from dlcv.runtime.images.samples import sample_paths

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """300 paths of photos: from the data folder (DLCV_DATA) if it is there, else shipped ones, repeated."""
    root = Path(os.environ.get("DLCV_DATA") or REPOSITORY.parent / "shared" / "data")
    archive = root / "photos" / "imagenet_sample.zip"
    if not archive.exists():
        shipped = [str(path) for path in sample_paths()]
        return [shipped[number % len(shipped)] for number in range(300)]
    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)  # our own data folder
    return sorted(str(path) for path in folder.rglob("*.jpg"))[:300]
