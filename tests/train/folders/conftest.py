"""Folders of small images, as people have them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcv.train.recipe import Recipe, recipe_from_yaml


def write_photos(folder: Path, counts: dict[str, int], *, size: tuple[int, int] = (24, 32)) -> Path:
    """Write noisy photos of a colour for each class: CLASS/0.jpg, and so on."""
    random = np.random.default_rng(len(folder.name))
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random.integers(0, 60, (*size, 3), np.uint8)
            pixels[..., number % 3] += 150
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")
    return folder


def write_masked(
    folder: Path,
    names: Iterable[str],
    *,
    values: tuple[int, ...] = (0, 1),
    masks: str = "masks",
    end: str = "",
    size: tuple[int, int] = (64, 64),
) -> Path:
    """Write images and masks of vertical stripes of values."""
    random = np.random.default_rng(0)
    for part in ("images", masks):
        (folder / part).mkdir(parents=True, exist_ok=True)
    stripes = np.array(values, np.uint8)[np.arange(size[1]) * len(values) // size[1]]
    mask = np.repeat(stripes[None], size[0], axis=0)
    for name in names:
        pixels = random.integers(0, 60, (*size, 3), np.uint8)
        pixels[..., 0] += (mask.clip(0, 3) * 50).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(mask).save(folder / masks / f"{name}{end}.png")
    return folder


@pytest.fixture
def photos() -> Callable[..., Path]:
    """Write photos by class; see `write_photos`."""
    return write_photos


@pytest.fixture
def masked() -> Callable[..., Path]:
    """Write images with masks; see `write_masked`."""
    return write_masked


@pytest.fixture
def read() -> Callable[[str], Recipe]:
    """Read the text of a recipe for supervised training."""

    def recipe_of(text: str) -> Recipe:
        recipe = recipe_from_yaml(text)
        assert isinstance(recipe, Recipe)
        return recipe

    return recipe_of
