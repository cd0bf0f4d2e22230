"""A finished run on synthetic photos: a checkpoint, snapshots' log and times as training leaves them."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.models import build_model
from dlcv.train.recipe import Recipe

COLORS = {"red": [255, 0, 0], "green": [0, 255, 0], "blue": [0, 0, 255]}
LOG = """accuracy,mean_iou,epoch,loss_epoch,step,train_accuracy_epoch,val_loss
0.5,0.25,0,,3,,1.0
,,0,1.5,3,0.4,
0.75,0.5,1,,7,,0.5
,,1,0.9,7,0.625,
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "classify": {
        "model": {"name": "small_cnn"},
        "preprocessing": {"resize": "stretch", "size": [32, 32]},
        "data": {"name": "folders", "root": "classify", "train": "train", "test": "test"},
    },
    "segment": {
        "model": {"name": "lraspp_mobilenet_v2", "options": {"inter_channels": 8}},
        "preprocessing": {"resize": "longest_side", "size": [64, 64], "multiple": 32},
        "data": {
            "name": "pairs",
            "root": "segment",
            "train": "train",
            "test": "test",
            "images": "{}_sat.png",
            "masks": "{}_mask.png",
            "mask_coding": "rgb",
            "ignore_colors": [[0, 0, 0]],
        },
    },
}


def new_recipe(task: str) -> Recipe:
    shared = {
        "name": f"toy-{task}",
        "task": task,
        "description": "A toy for tests",
        "classes": [{"name": name, "color": color} for name, color in COLORS.items()],
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "optimizer": {"lr": 0.01},
        "epochs": 5,
        "batch": 4,
        "snapshots": [1],
        "augment": {"crop": 32},
        "data_note": "Coloured noise.",
    }
    return msgspec.convert(shared | SETTINGS[task], Recipe)


def write_data(root: Path) -> None:
    """Write noise in three colours: class folders, and pairs of images with masks coded by colour."""
    random = np.random.default_rng(0)
    for number in range(12):
        label = number % 3
        pixels = random.integers(0, 150, (64, 64, 3), np.uint8)
        pixels[..., label] += 100
        folder = root / "classify" / "test" / list(COLORS)[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        mask = np.tile(np.array(list(COLORS.values())[label], np.uint8), (64, 64, 1))
        mask[:8] = 0  # unknown
        pair = root / "segment" / "test"
        pair.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(pair / f"{number}_sat.png")
        Image.fromarray(mask).save(pair / f"{number}_mask.png")


def write_run(folder: Path, task: str) -> Path:
    recipe = new_recipe(task)
    torch.manual_seed(0)
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=3)
    save_checkpoint(folder, spec.network, recipe=recipe, metrics={"epoch": 2})
    (folder / "log" / "version_0").mkdir(parents=True)
    (folder / "log" / "version_0" / "metrics.csv").write_text(LOG)
    (folder / "resume.ckpt").touch()
    return folder


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a test set for each task. Read only."""
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


@pytest.fixture(scope="session", params=["classify", "segment"])
def toy_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each task."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", request.param)
