"""A tiny captioning data set and recipe: plain photos whose colour is what there is to say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import numpy as np
import pytest
from PIL import Image

from dlcv.train.caption.recipe import CaptionRecipe

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def caption_settings() -> dict[str, Any]:
    """Return the settings of a recipe that trains in a second."""
    return {
        "name": "toy-caption",
        "task": "caption",
        "description": "A toy for tests.",
        "model": {
            "name": "timm:vit_tiny_patch16_224",
            "options": {
                "img_size": 32,
                "patch_size": 8,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
            },
        },
        "preprocessing": {"resize": "stretch", "size": [32, 32]},
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "data": {"root": "toy", "train": "train.json", "test": "test.json"},
        "vocabulary": 12,
        "decoder": {"dim": 16, "depth": 2, "heads": 2, "dropout": 0.0, "length": 8},
        "freeze": ["encoder."],
        "optimizer": {"lr": 0.02},
        "schedule": {"name": "constant"},
        "epochs": 2,
        "batch": 6,
        "remember": 3,
    }


@pytest.fixture(scope="session")
def new_recipe() -> Callable[..., CaptionRecipe]:
    """Make a recipe for the tiny data: `new_recipe(**settings that replace others)`."""
    return lambda **changes: msgspec.convert(caption_settings() | changes, CaptionRecipe)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with `toy`: a ZIP of six training photos, a folder of three test photos, their captions."""
    root = tmp_path_factory.mktemp("data")
    write_captions(root / "toy")
    return root


def write_captions(folder: Path) -> None:
    """Write photos and two captions of each; the words are a, the, photo, wall, and three colours."""
    (folder / "test").mkdir(parents=True)
    captions: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    with ZipFile(folder / "train.zip", "w") as archive:
        for split, texts in captions.items():
            for number, (color, value) in enumerate([*COLORS.items()] * 2):
                name = f"{split}-{number}.png"
                pixels = np.full((20, 20, 3), value, np.uint8) + np.uint8(number)
                Image.fromarray(pixels).save(folder / "test" / name)
                if split == "train":
                    archive.write(folder / "test" / name, f"images/{name}")
                    (folder / "test" / name).unlink()
                texts[name] = [f"A {color} wall .", f"The photo of {color}"]
    for split, texts in captions.items():
        (folder / f"{split}.json").write_text(json.dumps(texts))
