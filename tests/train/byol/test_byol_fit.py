import re

import pytest
import torch
from safetensors.torch import load_file

from dlcv.runtime.errors import RecipeError
from dlcv.train.byol.module import ByolModule
from dlcv.train.byol.task import BYOL, ByolData
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.fit import fit
from dlcv.train.models import build_model
from dlcv.train.models.spec import without_head
from dlcv.train.recipe import recipe_from_yaml, yaml_from_recipe


def rows(out):
    return [file.read_text() for file in sorted(out.glob("log/*/metrics.csv"))]


def test_a_run_keeps_the_backbone_alone_and_its_scores(new_byol, toy_data, tmp_path):
    recipe = new_byol()
    metrics = fit(recipe, toy_data, out=tmp_path / "run")
    assert metrics["images"] == 16
    assert 0.5 < metrics["probe_accuracy"] <= 1  # three plain colours
    assert set(metrics) == {"probe_accuracy", "random_accuracy", "images", "epoch"}
    checkpoint = load_checkpoint(tmp_path / "run")
    names = set(load_file(tmp_path / "run" / "model.safetensors"))
    assert names == set(checkpoint.model.state_dict())
    assert not any("linear2" in name or "predictor" in name for name in names)
    assert checkpoint.model(torch.zeros(2, 3, 16, 16)).shape == (2, 64)
    assert BYOL.evaluate(checkpoint, toy_data)["probe_accuracy"] == metrics["probe_accuracy"]
    log = rows(tmp_path / "run")[0]
    assert all(column in log for column in ("loss_step", "probe_accuracy", "spread"))


def test_a_resumed_run_is_the_run_that_was_never_stopped(new_byol, toy_data, tmp_path, monkeypatch):
    recipe = new_byol(epochs=3)
    fit(recipe, toy_data, out=tmp_path / "whole")

    def stop(self):
        if self.current_epoch == 2:
            raise InterruptedError

    monkeypatch.setattr(ByolModule, "on_train_epoch_start", stop)
    with pytest.raises(InterruptedError):
        fit(recipe, toy_data, out=tmp_path / "parts")
    monkeypatch.undo()
    fit(recipe, toy_data, out=tmp_path / "parts", resume=True)
    whole, parts = (
        torch.load(tmp_path / run / "resume.ckpt", weights_only=False)["state_dict"]
        for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert any(name.startswith("target.") for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_target_follows_and_no_optimizer_touches_it(new_byol, toy_data):
    recipe = new_byol()
    spec = BYOL.network(recipe)
    module = ByolModule(recipe, spec)
    learnt = {id(p) for p in module.learner.parameters()}
    assert not learnt & {id(p) for p in module.target.parameters()}
    assert all(not p.requires_grad for p in module.target.parameters())
    wanted = [module.network, module.projector, module.predictor]
    assert learnt == {id(p) for part in wanted for p in part.parameters()}


def test_a_collapse_is_said_with_what_to_do(new_byol, toy_data, tmp_path, capsys, monkeypatch):
    fit(new_byol(epochs=1), toy_data, out=tmp_path / "sound")
    assert "collapses" not in capsys.readouterr().err
    # Without normalisation, predictor and target nothing keeps views from being projected to one point.
    monkeypatch.setattr("dlcv.train.byol.module.mlp", lambda width, config: torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.Linear(8, width)))  # fmt: skip
    recipe = new_byol(
        epochs=4,
        optimizer={"name": "adamw", "lr": 0.02, "weight_decay": 20.0},
        byol={"hidden": 32, "projection": 64, "decay": 0.0, "decay_schedule": "constant"},
    )
    fit(recipe, toy_data, out=tmp_path / "collapsed")
    said = capsys.readouterr().err
    assert "the representation collapses" in said
    assert "lower optimizer.lr (0.02), raise byol.decay (0) or batch (8)" in said


def test_images_without_labels_can_be_a_folder_of_their_own(new_byol, toy_data, tmp_path):
    from PIL import Image

    for source in toy_data.iterdir():
        (tmp_path / source.name).symlink_to(source)
    (tmp_path / "photos").mkdir()
    for number in range(10):
        Image.new("RGB", (20, 30), (20 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    data = ByolData(new_byol(unlabelled="photos"), tmp_path)
    assert data.train_set.batch(slice(None))[0].shape == (10, 16, 16, 3)
    assert len(data.probe_set) == 32
    assert data.summary_lines()[0] == "unlabelled: 10 images, 16x16 pixels; for the probe:"
    with pytest.raises(RecipeError, match="no data at"):
        ByolData(new_byol(unlabelled="nothing"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "byol normalises over the batch, so batch must be 2 or more"),
        ({"keep": "loss"}, "byol's loss is least when it has collapsed"),
        ({"augment": {"size": 16, "area": [0.5, 0.2]}}, "augment.area must be (low, high)"),
        ({"augment": {"size": 16, "jitter": [0.1, 0.1, 0.1, 0.6]}}, "and .5 for hue"),
        ({"augment": {"size": 16, "blur_kernel": 4}}, "augment.blur_kernel must be odd, not 4"),
        ({"augment": {"size": 16, "blur_sigma": [2, 1]}}, "augment.blur_sigma must be"),
        ({"unlabelled": "../x"}, "unlabelled must be a path inside the data root"),
        (
            {"data": {"name": "cifar10", "root": "a", "labels": ["x"]}},
            "data.labels names 1 classes",
        ),
        ({"byol": {"decay": 1.0}}, "< 1.0"),
    ],
)
def test_contradictions_are_refused(new_byol, changes, message):
    settings = yaml_from_recipe(new_byol())
    import yaml

    text = yaml.safe_dump(yaml.safe_load(settings) | changes)
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe_from_yaml(text)


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [
        ("cifar_resnet20", {}, 64),
        ("small_cnn", {"batch_norm": True}, 64),
        ("torchvision:mobilenet_v2", {}, 1280),
        ("torchvision:resnet18", {"head": {"hidden": [32]}}, 512),
        ("timm:resnet10t", {}, 512),
        ("timm:vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}, 192),
    ],
)
def test_a_classifier_without_its_head_gives_what_the_head_saw(name, options, width):
    spec = without_head(build_model(name, options, num_classes=5), name=name)
    assert spec.network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, width)


def test_what_is_no_classifier_with_a_head_is_refused():
    for name in ("vit_conv_stem", "fcn_mobilenet_v2"):
        with pytest.raises(
            RecipeError, match=f"model {name} is not a classifier that ends in a head"
        ):
            without_head(build_model(name, {}, num_classes=3), name=name)
