"""Small coloured class folders, and a recipe that trains on them in a second."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import numpy as np
import pytest
from PIL import Image

from dlcv.train.fewshot.recipe import FewShotRecipe

SPLITS = {"base": 4, "val": 3, "novel": 3}  # classes of each
IMAGES = 6  # of each class


def settings() -> dict[str, Any]:
    """Return the settings of the recipe."""
    episodes = {"ways": 3, "shots": 1, "queries": 2, "episodes": 4}
    return {
        "name": "toy-fewshot",
        "task": "fewshot",
        "description": "A toy for tests.",
        "model": {"name": "conv4", "options": {"image_size": 16, "width": 8}},
        "mlp": {"hidden": [16], "width": 8, "dropout": 0.2},
        "preprocessing": {"resize": "stretch", "size": [16, 16]},
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "data": {"root": "toy.zip", "train": ["base"], "validation": ["val"], "test": ["novel"]},
        "training": episodes | {"episodes": 8},
        "validation": episodes,
        "test": episodes | {"episodes": 20},
        "augment": {"crop": 16, "pad": 2},
        "optimizer": {"name": "adam", "lr": 0.01},
        "epochs": 2,
        "batch": 2,
    }


@pytest.fixture
def fewshot_recipe() -> Callable[..., FewShotRecipe]:
    """Make the recipe: `fewshot_recipe(**settings that replace others)`."""
    return lambda **changes: msgspec.convert(settings() | changes, FewShotRecipe)


@pytest.fixture(scope="session")
def fewshot_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with `toy.zip`: SPLIT/CLASS/NUMBER.png, each class of a colour of its own. Read only."""
    root = tmp_path_factory.mktemp("fewshot")
    random = np.random.default_rng(0)
    with ZipFile(root / "toy.zip", "w") as archive:
        for split, classes in SPLITS.items():
            for number in range(classes):
                color = random.integers(0, 200, 3)
                for image in range(IMAGES):
                    pixels = (color + random.integers(0, 50, (16, 16, 3))).astype(np.uint8)
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "PNG")
                    archive.writestr(f"{split}/{split}{number}/{image}.png", buffer.getvalue())
    return root
