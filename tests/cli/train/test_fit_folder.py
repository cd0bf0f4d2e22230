"""`dlcv-train fit --network NAME --data FOLDER`, and the bundle that becomes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dlcv
from dlcv.cli.export.app import app as export_app
from dlcv.cli.train.app import app
from dlcv.runtime.errors import OutputError
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.recipe import load_recipe

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Linear(4, num_classes)
    def forward(self, x):
        return self.last(self.body(x).mean((2, 3)))

class Masks(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, classes, 1))
    def forward(self, x):
        return {"logits": self.body(x)}
"""
SMP = ["encoder_name=resnet18", "encoder_depth=3", "decoder_channels=[16,8,8]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write `classify` and `segment`, folders of images, and `net.py`."""
    root, random = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for number, name in enumerate(("red", "green", "blue")):
        (root / "classify" / name).mkdir(parents=True)
        for index in range(3):
            pixels = random.integers(0, 60, (32, 32, 3), np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(root / "classify" / name / f"{index}.png")
    for split, count in (("train", 2), ("val", 1)):
        for part in ("images", "masks"):
            (root / "segment" / split / part).mkdir(parents=True)
        for index in range(count):
            mask = (random.random((64, 64)) > 0.5).astype(np.uint8)
            Image.fromarray(mask).save(root / "segment" / split / f"masks/{index}.png")
            Image.fromarray(mask * 200).save(root / "segment" / split / f"images/{index}.png")
    (root / "net.py").write_text(NET)
    return root


def invoke(*arguments: Any, of: Any = app) -> str:
    """Run a command, and return its output."""
    with torch.random.fork_rng():
        result = CliRunner().invoke(of, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


@pytest.mark.parametrize(
    ("network", "task", "settings"),
    [
        ("timm:test_resnet", "classify", ()),
        ("torchvision:resnet18", "classify", ()),
        ("py:net.py:Net", "classify", ()),
        ("py:net.py:Masks", "segment", ()),
        ("smp:Unet", "segment", SMP),
    ],
)
def test_a_folder_of_images_becomes_a_bundle(
    network: str,
    task: str,
    settings: tuple[str, ...],
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if network.startswith("smp:"):
        pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.chdir(folders)
    run, data = tmp_path / "run", folders / task
    size = ("--size", "32x32") if task == "classify" else ()
    options = (x for setting in settings for x in ("--set", setting))
    told = invoke("fit", "--network", network, "--data", data, "--task", task, "--epochs", 1,
                  "--out", run, *size, *options)  # fmt: skip
    assert f"recipe: {run}/recipe.yaml; to train it again: dlcv-train fit {run}/recipe" in told
    recipe = load_recipe(run / "recipe.yaml")
    assert load_checkpoint(run).recipe.model.options == recipe.model.options
    assert (run / "recipe.yaml").read_text().startswith("# Written by `dlcv-train fit --network`")
    invoke("bundle", run, "-o", tmp_path / "bundle", of=export_app)
    with dlcv.load(tmp_path / "bundle") as model:
        (result,) = model([np.zeros((64, 64, 3), np.uint8)])
    names = ["blue", "green", "red"] if task == "classify" else ["background", "foreground"]
    assert [info.name for info in model.bundle.manifest.classes] == names
    assert type(result).__name__ == {"classify": "Classification", "segment": "Segmentation"}[task]


def test_the_written_recipe_trains_the_same_again(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    first, again = tmp_path / "first", tmp_path / "again"
    fit = ("fit", "--network", "py:net.py:Net", "--data", "classify", "--task", "classify")
    invoke(*fit, "--size", "32x32", "--epochs", 2, "--batch-size", 3, "--out", first)
    monkeypatch.chdir(tmp_path)  # net.py is found beside the recipe
    invoke("fit", first / "recipe.yaml", "--data", folders / "classify", "--out", again)
    states = [load_checkpoint(folder).model.state_dict() for folder in (first, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    start = ("--weights", first / "model.safetensors", "--out", tmp_path / "third")
    told = invoke("fit", "--network", f"py:{folders}/net.py:Net", "--data", folders / "classify",
                  "--task", "classify", "--size", "32x32", "--epochs", 1, *start)  # fmt: skip
    assert "start: " in told
    assert "model.safetensors but for last.weight, last.bias" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to train; give a RECIPE, or --network NAME --data FOLDER --task"),
        (["x", "--network", "small_cnn"], "the recipe x names its network; leave out --network"),
        (["x", "--size", "32x32", "--set", "a=1"], "--set, --size are for --network; a recipe"),
        (["--network", "small_cnn"], "--network needs --task classify or --task segment"),
        (["--network", "small_cnn", "--task", "classify"], "--network needs --data FOLDER"),
        (
            ["--network", "small_cnn", "--task", "classify", "--resume", "--backbone", "x"],
            "--network begins a run; --resume, --backbone are for a recipe, such as OUT/recipe",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["fit", *arguments])
    assert result.exit_code == 1
    assert str(result.exception).startswith(message)


def test_a_folder_that_holds_a_run_is_not_written_to(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    arguments = ["fit", "--network", "small_cnn", "--data", folders / "classify", "--task"]
    options = ["classify", "--size", "32x32", "--out", tmp_path]
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, *options)])
    assert "already holds a run; give --resume or another --out" in str(result.exception)
    assert not (tmp_path / "recipe.yaml").exists()


@pytest.mark.parametrize("name", ["net.py", "recipe.yaml", "metrics.json"])
def test_a_run_replaces_no_file_of_others(
    name: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    (tmp_path / name).write_text("my own")
    arguments = ["fit", "--network", "py:net.py:Net", "--data", "classify", "--task", "classify"]
    result = CliRunner().invoke(app, [*arguments, "--size", "32x32", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, OutputError)
    assert f"{tmp_path / name} is in the way" in str(result.exception)
    assert (tmp_path / name).read_text() == "my own"
