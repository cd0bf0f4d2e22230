"""A few-shot run trains, resumes exactly, is scored and refuses contradictions."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
import yaml

from dlcv.runtime.errors import RecipeError
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.fewshot.evaluate import evaluate
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.fit import Checkpoints, fit
from dlcv.train.optim import schedule_for
from dlcv.train.recipe import recipe_from_yaml, yaml_from_recipe


class PowerFailureError(Exception):
    pass


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "parametric"])
def test_a_run_learns_the_colours(distance, fewshot_recipe, fewshot_root, tmp_path):
    recipe = fewshot_recipe(distance=distance, epochs=4, test_shots=[1, 3])
    metrics = fit(recipe, fewshot_root, out=tmp_path / "run")
    assert metrics["accuracy"] > 0.5  # of three classes
    assert metrics["shots"]["1-shot"] == metrics["accuracy"]
    assert set(metrics["intervals"]) == {"1-shot ±", "3-shot ±"}
    assert (metrics["episodes"], metrics["images"]) == (20, 18)
    state = load_checkpoint(tmp_path / "run").model.state_dict()
    assert float(state["encoder.features.norm1.running_mean"].abs().sum()) > 0


def test_a_resumed_run_ends_exactly_where_an_uninterrupted_one_ends(
    fewshot_recipe, fewshot_root, tmp_path, monkeypatch
):
    recipe = fewshot_recipe(epochs=3)
    fit(recipe, fewshot_root, out=tmp_path / "whole")

    def fail(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise PowerFailureError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_start", fail)
        with pytest.raises(PowerFailureError):
            fit(recipe, fewshot_root, out=tmp_path / "parts")
    fit(recipe, fewshot_root, out=tmp_path / "parts", resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "resume.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_fixed_episodes_are_scored(fewshot_recipe, fewshot_root, tmp_path):
    fit(fewshot_recipe(epochs=1), fewshot_root, out=tmp_path / "run")
    (tmp_path / "toy.zip").symlink_to(fewshot_root / "toy.zip")
    lines = ["episode,role,class,file"]
    for number in (0, 1):
        lines += [f"e,support,{number},novel/novel{number}/0.png"]
        lines += [f"e,query,{number},novel/novel{number}/{image}.png" for image in (1, 2)]
    (tmp_path / "episodes.csv").write_text("\n".join(lines))
    checkpoint = load_checkpoint(tmp_path / "run", FewShotRecipe)
    data = msgspec.structs.replace(checkpoint.recipe.data, episodes="episodes.csv")
    recipe = msgspec.structs.replace(checkpoint.recipe, data=data)
    metrics = evaluate(replace(checkpoint, recipe=recipe), tmp_path)
    assert metrics["episodes"] == 1
    assert metrics["accuracy"] in (0, 0.25, 0.5, 0.75, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": {"ways": 1, "shots": 1, "episodes": 3}}, "test.ways must be 2 or more"),
        ({"batch": 9}, "batch 9 exceeds training.episodes 8"),
        (
            {"distance_hidden": 9},
            "distance euclidean has no hidden layer; leave out distance_hidden",
        ),
        (
            {"preprocessing": {"resize": "stretch", "size": [16, 20]}},
            "data.rotations needs square images, not 16x20",
        ),
        ({"test_shots": [3]}, "data.episodes fixes the shots; leave out test_shots"),
    ],
)
def test_contradictions_are_refused(changes, message, fewshot_recipe):
    data: dict[str, Any] = {"root": "a", "train": ["b"], "validation": ["c"], "test": ["d"]}
    data |= {"rotations": True} if "preprocessing" in changes else {}
    data |= {"episodes": "e.csv"} if "test_shots" in changes else {}
    with pytest.raises(msgspec.ValidationError, match=message):
        fewshot_recipe(**{**changes, "data": data})


def test_a_recipe_survives_its_yaml(fewshot_recipe):
    recipe = fewshot_recipe()
    assert recipe_from_yaml(yaml_from_recipe(recipe)) == recipe
    settings = yaml.safe_load(yaml_from_recipe(recipe)) | {"distance": "manhattan"}
    with pytest.raises(RecipeError, match="distance"):
        recipe_from_yaml(yaml.safe_dump(settings))


def test_the_rate_falls_by_a_factor_every_so_many_epochs(fewshot_recipe):
    recipe = fewshot_recipe(epochs=6, schedule={"name": "steps", "step_epochs": 2, "factor": 0.5})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = schedule_for(optimizer, recipe, steps=12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [1.0] * 4 + [0.5] * 4 + [0.25] * 4
