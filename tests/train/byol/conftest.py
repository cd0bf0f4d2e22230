"""A recipe of BYOL for the synthetic data of tests/train/conftest.py."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dlcv.train.byol.recipe import ByolRecipe


@pytest.fixture
def new_byol() -> Callable[..., ByolRecipe]:
    """Make a recipe that trains in a second: `new_byol(**settings that replace others)`."""
    return lambda **changes: msgspec.convert(_settings() | changes, ByolRecipe)


def _settings() -> dict[str, Any]:
    return {
        "name": "toy-byol",
        "task": "byol",
        "description": "A toy for tests.",
        "model": {"name": "small_cnn", "options": {"image_size": 16}},
        "classes": [{"name": n} for n in ("red", "green", "blue")],
        "preprocessing": {"resize": "stretch", "size": [16, 16]},
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "data": {"name": "cifar10", "root": "classify"},
        "augment": {"size": 16, "area": [0.5, 1.0], "jitter": [0.2, 0.2, 0.2, 0.1]},
        "byol": {"hidden": 32, "projection": 16, "decay": 0.9},
        "optimizer": {"lr": 0.003},
        "epochs": 2,
        "batch": 8,
    }
