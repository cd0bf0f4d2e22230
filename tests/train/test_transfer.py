"""The five settings and their table."""

import json
import re
from dataclasses import replace

import pytest

from dlcv.runtime.errors import RecipeError
from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.fit import fit
from dlcv.train.hardware import Hardware
from dlcv.train.models import build_model
from dlcv.train.recipe import Recipe, load_recipe, yaml_from_recipe
from dlcv.train.transfer import SETTINGS, Comparison, Start, compare, table_lines

OPTIONS = {"image_size": 32}
SMALL = {"name": "small_cnn", "options": OPTIONS}


@pytest.fixture
def comparison(new_recipe, tmp_path):
    """Return a comparison of five quick recipes, from the run of an untrained network."""
    network = build_model("small_cnn", OPTIONS, num_classes=3).network
    save_checkpoint(tmp_path / "run", network, recipe=new_recipe(model=SMALL), metrics={})
    for setting in SETTINGS:
        freeze = ["backbone"] if setting.learns == "head" else []
        recipe = new_recipe(name=f"toy-{setting.name}", model=SMALL, epochs=1, freeze=freeze)
        (tmp_path / f"toy-{setting.name}.yaml").write_text(yaml_from_recipe(recipe))
    backbones: dict[Start, str | None] = {
        "supervised": str(tmp_path / "run"),
        "byol": str(tmp_path / "run"),
    }
    return Comparison(family=str(tmp_path / "toy"), out=tmp_path / "out", backbones=backbones)


def test_five_settings_give_a_table_once_and_are_not_trained_again(
    comparison, toy_data, monkeypatch
):
    outcomes = list(compare(comparison, toy_data, hardware=Hardware()))
    lines = table_lines(outcomes)
    assert [line.split()[0] for line in lines] == ["setting", "A", "B", "C", "D", "E"]
    assert re.fullmatch(r"C +byol +all layers +[01]\.\d{4} +16 +1", lines[3])
    assert re.fullmatch(r"D +supervised +head only +[01]\.\d{4} +16 +1", lines[4])
    saved = json.loads((comparison.out / "transfer.json").read_text())
    assert [row["accuracy"] for row in saved] == [outcome.accuracy for outcome in outcomes]
    started = {
        s.name: load_recipe(comparison.out / s.name / "recipe.yaml").backbone for s in SETTINGS
    }
    assert started["a"] is None
    assert started["b"] == started["e"] == comparison.backbones["byol"]

    monkeypatch.setattr("dlcv.train.transfer.fit", lambda *_, **__: pytest.fail("trained again"))
    assert list(compare(comparison, toy_data, hardware=Hardware())) == outcomes


def test_a_comparison_that_was_stopped_goes_on(comparison, toy_data, monkeypatch):
    def stop(recipe, *arguments, **options):
        if recipe.name == "toy-c":
            raise KeyboardInterrupt
        return fit(recipe, *arguments, **options)

    monkeypatch.setattr("dlcv.train.transfer.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        list(compare(comparison, toy_data, hardware=Hardware()))
    assert len(json.loads((comparison.out / "transfer.json").read_text())) == 2
    trained = []

    def note(recipe, *arguments, **options):
        trained.append(recipe.name)
        return fit(recipe, *arguments, **options)

    monkeypatch.setattr("dlcv.train.transfer.fit", note)
    assert len(list(compare(comparison, toy_data, hardware=Hardware()))) == 5
    assert trained == ["toy-c", "toy-d", "toy-e"]


def test_a_missing_recipe_another_task_and_other_recipes_runs_are_refused_before_training(
    comparison, toy_data, new_recipe, tmp_path
):
    with pytest.raises(RecipeError, match="nothing-a: no readable recipe file"):
        next(compare(Comparison(family="nothing", out=tmp_path / "x", backbones={}), toy_data, hardware=Hardware()))  # fmt: skip
    next(compare(comparison, toy_data, hardware=Hardware()))
    changed = new_recipe(name="toy-a", model=SMALL, epochs=2)
    (tmp_path / "toy-a.yaml").write_text(yaml_from_recipe(changed))
    with pytest.raises(RecipeError, match="has another recipe; give another --out"):
        next(compare(comparison, toy_data, hardware=Hardware()))
    (tmp_path / "toy-e.yaml").write_text(yaml_from_recipe(new_recipe("segment")))
    with pytest.raises(
        RecipeError, match="is of task segment; settings A to E compare classifiers"
    ):
        next(compare(comparison, toy_data, hardware=Hardware()))


@pytest.mark.parametrize("family", ["cifar10-transfer", "officehome-transfer"])
def test_the_settings_of_a_built_in_family_differ_in_start_freezing_and_rate_alone(family):
    recipes = {s.name: load_recipe(f"{family}-{s.name}", Recipe) for s in SETTINGS}
    for setting in SETTINGS:
        recipe = recipes[setting.name]
        assert (recipe.backbone is None) == (setting.start == "none")
        assert recipe.freeze == (("backbone",) if setting.learns == "head" else ())
        assert (recipe.model, recipe.data, recipe.epochs) == (
            recipes["a"].model, recipes["a"].data, recipes["a"].epochs
        )  # fmt: skip
    assert recipes["b"].backbone == recipes["d"].backbone != recipes["c"].backbone
    assert recipes["c"].backbone == recipes["e"].backbone


@pytest.mark.parametrize(
    ("backbones", "message"),
    [
        (
            {"byol": None},
            "setting C starts from a byol backbone and toy-c names none; give --byol RUN",
        ),
        ({"byol": "no-such-run"}, "no weights file no-such-run"),
    ],
)
def test_a_missing_backbone_is_said_before_anything_is_trained(
    backbones, message, comparison, toy_data
):
    changed = replace(comparison, backbones={**comparison.backbones, **backbones})
    with pytest.raises(RecipeError, match=message):
        list(compare(changed, toy_data, hardware=Hardware()))
    assert not comparison.out.exists()


def test_a_backbone_of_another_network_is_refused_before_anything_is_trained(
    comparison, toy_data, new_recipe, tmp_path
):
    options = OPTIONS | {"batch_norm": True}
    network = build_model("small_cnn", options, num_classes=3).network
    recipe = new_recipe(model={"name": "small_cnn", "options": options})
    save_checkpoint(tmp_path / "other", network, recipe=recipe, metrics={})
    changed = replace(
        comparison, backbones={**comparison.backbones, "byol": str(tmp_path / "other")}
    )
    with pytest.raises(RecipeError, match="other does not fit SmallCnn"):
        list(compare(changed, toy_data, hardware=Hardware()))
    assert not comparison.out.exists()
