import re

import pytest
import yaml

from dlcv.runtime.errors import RecipeError
from dlcv.train.recipe import (
    builtin_recipes,
    changed,
    data_root,
    load_recipe,
    recipe_from_yaml,
    yaml_from_recipe,
)


@pytest.mark.parametrize("name", builtin_recipes())
def test_a_builtin_recipe_is_valid_has_its_files_name_and_survives_a_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.licence_note
    assert recipe.data_note
    assert recipe_from_yaml(yaml_from_recipe(recipe)) == recipe


def test_a_round_trip_keeps_every_setting(new_recipe):
    for task in ("classify", "segment"):
        recipe = new_recipe(task)
        assert recipe_from_yaml(yaml_from_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a mapping of settings, not NoneType"),
        ("- a", "a mapping of settings, not list"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system [true]", "not YAML"),
        ("name: x", "`task` must be one of classify, segment"),
    ],
)
def test_what_is_not_a_recipe_is_refused(text, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe_from_yaml(text)


TEACHER = {"model": {"name": "cifar_resnet20"}, "weights": "weights/teacher.pth"}


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("classify", {"epoch": 3}, "unknown field `epoch`"),
        ("classify", {"pretrained": True, "weights": "w.pth"}, "pretrained and weights exclude"),
        ("classify", {"allow_missing": ["head"]}, "allow_missing is for a weights file"),
        ("classify", {"loss": {"aux": 0.4}}, "loss.aux is for task segment"),
        ("classify", {"optimizer": {"lr": 1, "lrr": 2}}, "unknown field `lrr`"),
        ("classify", {"optimizer": {"lr": 0}}, "> 0.0 - at `$.optimizer.lr`"),
        ("classify", {"epochs": 0}, ">= 1 - at `$.epochs`"),
        ("classify", {"classes": [{"name": "a"}, {"name": "a"}]}, "two or more different names"),
        ("classify", {"classes": [{"name": "a"}]}, "two or more different names"),
        ("segment", {"classes": [{"name": "a"}, {"name": "b"}]}, "needs a color for every class"),
        ("segment", {"patch_drop": {"rate": 0.5}}, "are for task classify"),
        ("classify", {"loss": {"class_weights": "log"}}, "are for task segment"),
        ("classify", {"patch_drop": {"rate": 0.5, "full_epochs": 3}}, "3 exceeds epochs 2"),
        ("classify", {"schedule": {"warmup_epochs": 2}}, "leaves nothing of 2 epochs"),
        ("classify", {"data": {"name": "cifar10", "root": "/data"}}, "inside the data root"),
        ("classify", {"data": {"name": "cifar10", "root": "../x"}}, "inside the data root"),
        ("classify", {"weights": "../x.pth"}, "inside the data root"),
        ("classify", {"weights": "/x.pth"}, "inside the data root"),
        ("classify", {"normalization": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "above 0"),
        ("classify", {"normalization": {"mean": [123, 116, 103], "std": [58, 57, 57]}}, "0..255"),
        ("segment", {"augment": {"crop": 32, "scale": [2, 1]}}, "must be (low, high)"),
        ("segment", {"augment": {"crop": 32, "mixup": 0.2}}, "augment.mixup is for task classify"),
        ("classify", {"distill": TEACHER | {"outputs": 7}}, "go together"),
        ("classify", {"distill": TEACHER | {"classes": [0, 1, 2]}}, "go together"),
        ("classify", {"distill": TEACHER | {"outputs": 7, "classes": [7]}}, "names 7"),
        ("classify", {"distill": TEACHER | {"outputs": 7, "classes": [0]}}, "names 1 of the"),
    ],
)
def test_unknown_keys_and_contradictions_are_refused(new_recipe, task, changes, message):
    settings = yaml.safe_load(yaml_from_recipe(new_recipe(task))) | changes
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe_from_yaml(yaml.safe_dump(settings))


def test_an_error_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x")
    with pytest.raises(RecipeError, match=r"mine\.yaml: .*`task`"):
        load_recipe(path)


def test_neither_a_file_nor_a_builtin_lists_the_builtins():
    with pytest.raises(RecipeError, match=r"no built-in recipe has this name .*camvid-lraspp"):
        load_recipe("camvid-lrasp")


def test_changed_settings_are_checked_again(new_recipe):
    recipe = changed(new_recipe(), epochs=5, seed=7)
    assert (recipe.epochs, recipe.seed) == (5, 7)
    assert changed(recipe) == recipe
    with pytest.raises(RecipeError, match="leaves nothing of 1 epochs"):
        changed(new_recipe(schedule={"warmup_epochs": 1}), epochs=1)


def test_the_data_root_comes_from_the_argument_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("DLCV_DATA", raising=False)
    with pytest.raises(RecipeError, match="give --data DIR or set DLCV_DATA=DIR"):
        data_root()
    monkeypatch.setenv("DLCV_DATA", str(tmp_path / "missing"))
    with pytest.raises(RecipeError, match="missing is not a folder"):
        data_root()
    assert data_root(tmp_path) == tmp_path
    monkeypatch.setenv("DLCV_DATA", str(tmp_path))
    assert data_root() == tmp_path
