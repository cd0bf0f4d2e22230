import re

import pytest
import torch

from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.train.checkpoint import load_checkpoint, save_checkpoint
from dlcv.train.models import build_model


@pytest.fixture
def network(new_recipe):
    torch.manual_seed(0)
    recipe = new_recipe()
    return build_model(recipe.model.name, recipe.model.options, num_classes=3).network


@pytest.fixture
def saved(tmp_path, new_recipe, network):
    folder = tmp_path / "run"
    save_checkpoint(
        folder, network, recipe=new_recipe(), metrics={"accuracy": 0.5, "recall": {"red": None}}
    )
    return folder


def test_a_loaded_checkpoint_answers_as_the_saved_network(saved, network, new_recipe):
    checkpoint = load_checkpoint(saved)
    images = torch.randn(2, 3, 32, 32)
    assert not checkpoint.model.training
    assert torch.equal(checkpoint.model(images), network.eval()(images))
    assert checkpoint.recipe == new_recipe()
    assert checkpoint.metrics == {"accuracy": 0.5, "recall": {"red": None}}


def test_a_checkpoint_folder_holds_three_files_and_nothing_temporary(saved):
    assert {p.name for p in saved.iterdir()} == {
        "model.safetensors",
        "recipe.yaml",
        "metrics.json",
    }


def test_a_checkpoint_is_replaced_and_other_files_stay(saved, network, new_recipe):
    (saved / "resume.ckpt").write_text("x")
    save_checkpoint(saved, network, recipe=new_recipe(), metrics={"accuracy": 0.75})
    assert load_checkpoint(saved).metrics == {"accuracy": 0.75}
    assert (saved / "resume.ckpt").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.yaml", "metrics.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(RecipeError, match=f"is not a checkpoint: it has no {re.escape(name)}"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "is not a weights file"),
        ("recipe.yaml", "`task` must be one of classify, segment"),
        ("metrics.json", "is not a JSON object"),
    ],
)
def test_a_damaged_file_is_named(saved, name, message):
    (saved / name).write_bytes((saved / name).read_bytes()[:5])
    with pytest.raises(RecipeError, match=f"{re.escape(name)}.* {message}"):
        load_checkpoint(saved)


def test_weights_of_another_network_are_refused(saved):
    text = (saved / "recipe.yaml").read_text()
    (saved / "recipe.yaml").write_text(text.replace("dim: 16", "dim: 32"))
    with pytest.raises(RecipeError, match=r"of another shape: .*instead of.* more"):
        load_checkpoint(saved)


def test_a_file_in_the_way_is_an_output_error(tmp_path, network, new_recipe):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="cannot write a checkpoint"):
        save_checkpoint(tmp_path / "run", network, recipe=new_recipe(), metrics={})
