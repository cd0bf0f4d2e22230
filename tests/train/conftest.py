"""Small synthetic data sets in the real formats, and recipes for them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import numpy as np
import pytest
from PIL import Image

from dlcv.train.recipe import Recipe

CLASSES = [{"name": n, "color": [i, i, i]} for i, n in enumerate(("red", "green", "blue"))]

PAIRS = {"name": "pairs", "train": "train.zip", "test": "val.zip", "ignore_labels": [3]}
DATA: dict[str, dict[str, Any]] = {"classify": {"name": "cifar10"}, "segment": PAIRS}


def recipe_settings(task: str) -> dict[str, Any]:
    """Return the settings of a recipe that trains in a second on the synthetic data."""
    network = {
        "classify": {"name": "vit_conv_stem", "options": {"dim": 16, "depth": 1, "heads": 2, "blocks_per_stage": 1}},
        "segment": {"name": "lraspp_mobilenet_v2", "options": {"inter_channels": 8}},
    }[task]  # fmt: skip
    resize = {
        "classify": {"resize": "stretch", "size": [32, 32]},
        "segment": {"resize": "stretch", "size": [40, 48]},
    }[task]
    return {
        "name": f"toy-{task}",
        "task": task,
        "description": "A toy for tests.",
        "model": network,
        "classes": CLASSES,
        "preprocessing": resize,
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "data": DATA[task] | {"root": task, "train_limit": 32},
        "optimizer": {"lr": 0.003},
        "epochs": 2,
        "batch": 8 if task == "classify" else 2,
        "augment": {"crop": 32, "pad": 4} if task == "classify" else {"crop": 32, "scale": [0.5, 2]},
    }  # fmt: skip


@pytest.fixture
def new_recipe() -> Callable[..., Recipe]:
    """Make a recipe for synthetic data: `new_recipe(task, **settings that replace others)`."""
    return lambda task="classify", **changes: msgspec.convert(
        recipe_settings(task) | changes, Recipe
    )


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with `classify` (contact sheets) and `segment` (zips). Read only."""
    root = tmp_path_factory.mktemp("data")
    write_sheets(root / "classify", train=32, test=16)
    (root / "segment").mkdir()
    write_zip(root / "segment" / "train.zip", names=["a", "b", "c", "d"])
    write_zip(root / "segment" / "val.zip", names=["e", "f"])
    return root


def write_sheets(folder: Path, **splits: int) -> None:
    """Write contact sheets of plain red, green and blue tiles with a little noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in splits.items():
        labels = random.integers(0, 3, count)
        tiles = random.integers(0, 60, (1000, 32, 32, 3), np.uint8)
        tiles[np.arange(count), :, :, labels] += 150
        sheet = tiles.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
        Image.fromarray(sheet).save(folder / f"{split}_00.webp", lossless=True)
        np.save(folder / f"{split}_labels.npy", labels.astype(np.uint8))


@pytest.fixture
def new_zip() -> Callable[..., None]:
    """Write a zip of pairs; see `write_zip`."""
    return write_zip


def write_zip(path: Path, *, names: list[str], drop: str = "", label: int = 3) -> None:
    """Write images with their left half red and right half green, and masks with a void corner.

    `drop` names one member that is left out; `label` is the label of the corner (3 is void).
    """
    image = np.zeros((40, 48, 3), np.uint8)
    image[:, :24, 0] = image[:, 24:, 1] = 200
    mask = np.repeat([[0] * 24 + [1] * 24], 40, axis=0).astype(np.uint8)
    mask[:4, :4] = label
    with ZipFile(path, "w") as archive:
        for name in names:
            members = {f"images/{name}.jpg": (image, "JPEG"), f"labels/{name}.png": (mask, "PNG")}
            for member, (array, format_) in members.items():
                if member != drop:
                    buffer = io.BytesIO()
                    Image.fromarray(array).save(buffer, format_)
                    archive.writestr(member, buffer.getvalue())
