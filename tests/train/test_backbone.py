"""Starting from the backbone of another run."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlcv.runtime.errors import RecipeError
from dlcv.train.checkpoint import backbone_state, save_checkpoint
from dlcv.train.fit import fit
from dlcv.train.models import build_model
from dlcv.train.modules import RecipeModule

OPTIONS = {"image_size": 32}
SMALL = {"name": "small_cnn", "options": OPTIONS}


@pytest.fixture
def run(new_recipe, tmp_path):
    """Return a checkpoint folder of an untrained classifier."""
    recipe = new_recipe(model=SMALL)
    torch.manual_seed(5)
    network = build_model("small_cnn", OPTIONS, num_classes=3).network
    save_checkpoint(tmp_path / "source", network, recipe=recipe, metrics={"accuracy": 0.3})
    return tmp_path / "source"


def same_but_for_the_head(out, source):
    trained, start = (load_file(folder / "model.safetensors") for folder in (out, source))
    equal = {name for name in start if torch.equal(trained[name], start[name])}
    return equal == {name for name in start if "linear2" not in name}


def test_a_frozen_backbone_of_a_run_stays_and_the_head_learns(new_recipe, toy_data, run, tmp_path):
    recipe = new_recipe(model=SMALL, backbone=str(run), freeze=["backbone"], freeze_batch_norm=True)
    fit(recipe, toy_data, out=tmp_path / "out")
    assert same_but_for_the_head(tmp_path / "out", run)


def test_a_backbone_may_come_from_a_run_without_labels_or_a_weights_file(
    new_byol_run, new_recipe, toy_data, run, tmp_path
):
    for number, source in enumerate((new_byol_run, run / "model.safetensors")):
        recipe = new_recipe(model=SMALL, backbone=str(source), freeze=["backbone"], epochs=1)
        fit(recipe, toy_data, out=tmp_path / str(number))
        start = backbone_state(source)
        trained = load_file(tmp_path / str(number) / "model.safetensors")
        inside = [name for name in start if "linear2" not in name]
        assert len(inside) == 8
        assert all(torch.equal(trained[name], start[name]) for name in inside)


@pytest.fixture
def new_byol_run(new_recipe, run, tmp_path):
    """Return a checkpoint folder of BYOL's kind: a network without a head."""
    import msgspec

    from dlcv.train.byol.recipe import ByolRecipe
    from dlcv.train.tasks import task_kind

    settings = msgspec.to_builtins(new_recipe(model=SMALL))
    kept = {k: v for k, v in settings.items() if k not in ("loss", "distill", "patch_drop")}
    recipe = msgspec.convert(kept | {"task": "byol", "augment": {"size": 32}}, ByolRecipe)
    network = task_kind("byol").network(recipe).network
    save_checkpoint(tmp_path / "byol", network, recipe=recipe, metrics={})
    return tmp_path / "byol"


def test_a_backbone_of_another_network_a_folder_that_is_no_run_and_two_starts_are_refused(
    new_recipe, toy_data, run, tmp_path
):
    other = new_recipe(model={"name": "cifar_resnet20"}, backbone=str(run))
    with pytest.raises(RecipeError, match=r"source does not fit CifarResNet; \d+ missing"):
        fit(other, toy_data, out=tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"empty is not a checkpoint: it has no recipe\.yaml"):
        fit(new_recipe(backbone=str(tmp_path / "empty")), toy_data, out=tmp_path / "b")
    with pytest.raises(RecipeError, match="no weights file"):
        fit(new_recipe(backbone=str(tmp_path / "absent.pth")), toy_data, out=tmp_path / "c")
    with pytest.raises(ValueError, match="weights and backbone exclude each other"):
        new_recipe(backbone="run", weights="w.pth")
    short = load_file(run / "model.safetensors")
    del short["layers.conv1.weight"]
    shutil.copytree(run, tmp_path / "short")
    save_file(short, tmp_path / "short" / "model.safetensors")
    recipe = new_recipe(model=SMALL, backbone=str(tmp_path / "short"))
    with pytest.raises(RecipeError, match=r"1 missing: layers\.conv1\.weight"):
        fit(recipe, toy_data, out=tmp_path / "d")


def test_freezing_the_backbone_is_freezing_all_but_the_head(new_recipe):
    spec = build_model("torchvision:resnet18", {}, num_classes=3)
    RecipeModule(new_recipe(freeze=["backbone"]), spec)
    learns = {name for name, p in spec.network.named_parameters() if p.requires_grad}
    assert learns == {"fc.weight", "fc.bias"}
    segmenter = build_model("lraspp_mobilenet_v2", {"inter_channels": 8}, num_classes=3)
    RecipeModule(new_recipe("segment", freeze=["backbone"]), segmenter)
    frozen = {name for name, p in segmenter.network.named_parameters() if not p.requires_grad}
    assert len(frozen) == len(list(segmenter.backbone.parameters()))
