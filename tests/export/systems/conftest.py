"""A finished run on synthetic photos: a checkpoint, snapshots' log and times as training leaves them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dlcv.runtime.caption.vocabulary import TOKENIZER_FILE, vocabulary_from_captions
from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.recipe import RunRecipe, recipe_from_yaml
from dlcv.train.tasks import task_kind

COLORS = {"red": [255, 0, 0], "green": [0, 255, 0], "blue": [0, 0, 255]}
LOG = """accuracy,mean_iou,probe_accuracy,cider,epoch,loss_epoch,step,train_accuracy_epoch,val_loss
0.5,0.25,0.5,0.5,0,,3,,1.0
,,,,0,1.5,3,0.4,
0.75,0.5,0.75,0.75,1,,7,,0.5
,,,,1,0.9,7,0.625,
"""
WORDS = ["a", "the", "wall", "red", "green", "blue"]
EPISODES = {"ways": 2, "shots": 1, "queries": 1, "episodes": 20}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
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
    "byol": {
        "model": {"name": "small_cnn"},
        "preprocessing": {"resize": "stretch", "size": [32, 32]},
        "data": {"name": "folders", "root": "classify", "train": "test", "test": "test"},
        "augment": {"size": 32},
    },
    "fewshot": {
        "model": {"name": "conv4", "options": {"image_size": 32, "width": 8}},
        "distance": "parametric",
        "mlp": {"width": 8},
        "preprocessing": {"resize": "stretch", "size": [32, 32]},
        "data": {
            "root": "classify/test",
            "train": ["red"],
            "validation": ["green"],
            "test": ["blue"],
            "rotations": True,
        },
        "training": EPISODES,
        "validation": EPISODES,
        "test": EPISODES,
        "test_shots": [1, 2],
    },
    "caption": {
        "model": {"name": "timm:vit_tiny_patch16_224", "options": VIT},
        "preprocessing": {"resize": "stretch", "size": [32, 32]},
        "data": {"root": "caption", "train": "all.json", "test": "all.json"},
        "vocabulary": len(WORDS) + 4,
        "decoder": {"dim": 16, "depth": 1, "heads": 2, "dropout": 0.0, "length": 8},
        "remember": 3,
    },
}


def new_recipe(task: str) -> RunRecipe:
    shared = {
        "name": f"toy-{task}",
        "task": task,
        "description": "A toy for tests",
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "optimizer": {"lr": 0.01},
        "epochs": 5,
        "batch": 4,
        "snapshots": [1],
        "data_note": "Coloured noise.",
    }
    if task in ("classify", "segment", "byol"):
        classes = [{"name": name, "color": color} for name, color in COLORS.items()]
        shared |= {"classes": classes, "augment": {"crop": 32}}
    return recipe_from_yaml(yaml.safe_dump(shared | SETTINGS[task]))


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
    captions = {file.name: [f"a {file.parent.name} wall"] for file in root.glob("classify/*/*/*")}
    (root / "caption").mkdir()
    (root / "caption" / "all.json").write_text(json.dumps(captions))
    for file in root.glob("classify/*/*/*"):
        shutil.copy(file, root / "caption")


def write_run(folder: Path, task: str) -> Path:
    recipe = new_recipe(task)
    torch.manual_seed(0)
    network = task_kind(task).network(recipe).network
    vocabulary = vocabulary_from_captions([" ".join(WORDS)], size=len(WORDS) + 4)
    files = {TOKENIZER_FILE: vocabulary.to_json()} if task == "caption" else {}
    save_checkpoint(folder, network, recipe=recipe, metrics={"epoch": 2}, files=files)
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


@pytest.fixture(scope="session", params=list(SETTINGS))
def toy_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each task."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", request.param)
