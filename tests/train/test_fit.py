import csv
import re

import pytest
import torch

from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.evaluate import evaluate
from dlcv.train.fit import Checkpoints, fit
from dlcv.train.models import build_model
from dlcv.train.optim import optimizer_for, schedule_for
from dlcv.train.recipe import Recipe
from dlcv.train.settings import OptimizerConfig


def run(recipe, root, out, **options):
    with torch.random.fork_rng():
        return fit(recipe, root, out=out, **options)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_fit_writes_a_checkpoint_that_scores_as_it_says(task, new_recipe, toy_data, tmp_path):
    recipe = new_recipe(task, epochs=1)
    metrics = run(recipe, toy_data, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run", Recipe)
    assert checkpoint.recipe == recipe
    assert checkpoint.metrics == metrics
    assert {k: v for k, v in metrics.items() if k != "epoch"} == evaluate(checkpoint, toy_data)
    log = (tmp_path / "run/log/version_0/metrics.csv").read_text()
    rows = list(csv.DictReader(log.splitlines()))
    assert any(row["loss_epoch"] for row in rows)
    assert any(row["val_loss"] for row in rows)


def test_snapshots_are_checkpoints_of_their_epochs(new_recipe, toy_data, tmp_path):
    recipe = new_recipe(epochs=3, snapshots=[1, 3], validate_every=3)
    run(recipe, toy_data, tmp_path / "run")
    for epoch in (1, 3):
        metrics = load_checkpoint(tmp_path / f"run/epoch-{epoch:03d}").metrics
        assert metrics["epoch"] == epoch
        assert 0 <= metrics["accuracy"] <= 1  # its own score, between two regular ones
    assert not (tmp_path / "run/epoch-002").exists()


def test_a_run_stops_when_the_loss_no_longer_falls_and_keeps_the_least(
    new_recipe, toy_data, tmp_path, capsys
):
    still = {"name": "sgd", "lr": 1e-30}
    frozen = {"keep": "loss", "stop": {"patience": 2}, "optimizer": still, "epochs": 9}
    recipe = new_recipe(model={"name": "small_cnn"}, **frozen)
    metrics = run(recipe, toy_data, tmp_path / "run")
    assert metrics["epoch"] == 1
    assert capsys.readouterr().err.count("epoch ") == 3


def test_accumulated_batches_make_fewer_steps(new_recipe, toy_data, tmp_path):
    run(new_recipe(epochs=1, accumulate=2), toy_data, tmp_path / "run")
    resume = torch.load(tmp_path / "run/resume.ckpt", weights_only=True)
    assert resume["global_step"] == 2  # of four batches


def test_the_last_epoch_is_scored_whatever_the_interval(new_recipe, toy_data, tmp_path, capsys):
    run(new_recipe(epochs=3, validate_every=2), toy_data, tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    scored = ["accuracy" in line for line in lines if line.startswith("epoch")]
    assert scored == [False, True, True]


def stop_before(epoch, monkeypatch):
    """Let the power fail when training reaches an epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == epoch:
            raise PowerFailureError

    monkeypatch.setattr(Checkpoints, "on_train_epoch_start", on_train_epoch_start)


class PowerFailureError(Exception):
    pass


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_resumed_run_ends_exactly_where_an_uninterrupted_one_ends(
    task, new_recipe, toy_data, tmp_path, monkeypatch
):
    hiding = {"patch_drop": {"rate": 0.5}} if task == "classify" else {}
    recipe = new_recipe(task, epochs=3, schedule={"warmup_epochs": 1}, **hiding)
    run(recipe, toy_data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_before(2, patch)
        with pytest.raises(PowerFailureError):
            run(recipe, toy_data, tmp_path / "parts")
    run(recipe, toy_data, tmp_path / "parts", resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "resume.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert whole["epoch"] == parts["epoch"] == 2
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    assert (
        load_checkpoint(tmp_path / "whole").metrics == load_checkpoint(tmp_path / "parts").metrics
    )


def test_a_run_is_neither_overwritten_nor_resumed_by_mistake(new_recipe, toy_data, tmp_path):
    with pytest.raises(OutputError, match=r"nothing to resume: .* has no resume\.ckpt"):
        run(new_recipe(), toy_data, tmp_path / "run", resume=True)
    run(new_recipe(epochs=1), toy_data, tmp_path / "run")
    with pytest.raises(OutputError, match="already holds a run; give --resume or another --out"):
        run(new_recipe(epochs=1), toy_data, tmp_path / "run")
    with pytest.raises(RecipeError, match="has another recipe"):
        run(new_recipe(epochs=1, batch=4), toy_data, tmp_path / "run", resume=True)


def test_a_loss_that_is_no_number_stops_the_run_with_the_remedy(new_recipe, toy_data, tmp_path):
    recipe = new_recipe("segment", optimizer={"name": "sgd", "lr": 1e9})
    with pytest.raises(RecipeError, match=re.escape("lower optimizer.lr (1e+09) or set")):
        run(recipe, toy_data, tmp_path)


def test_frozen_parameters_and_statistics_stay(new_recipe, toy_data, tmp_path):
    recipe = new_recipe("segment", freeze=["backbone.0."], freeze_batch_norm=True, epochs=1)
    torch.manual_seed(recipe.seed)
    with torch.random.fork_rng():
        before = build_model(recipe.model.name, recipe.model.options, num_classes=3).network
    run(recipe, toy_data, tmp_path / "run")
    start, end = before.state_dict(), load_checkpoint(tmp_path / "run").model.state_dict()
    same = {name for name in start if torch.equal(start[name], end[name])}
    assert "backbone.0.0.weight" in same
    assert "backbone.4.conv.0.1.running_mean" in same
    assert "backbone.4.conv.0.0.weight" not in same


def test_a_teacher_is_followed_and_not_saved(new_recipe, toy_data, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "classify").symlink_to(toy_data / "classify")
    teacher = build_model("cifar_resnet20", num_classes=3).network
    torch.save(teacher.state_dict(), tmp_path / "weights" / "teacher.pth")
    distill = {"model": {"name": "cifar_resnet20"}, "weights": "weights/teacher.pth"}
    model = {"name": "vit_conv_stem", "options": {"dim": 16, "depth": 1, "heads": 2}}
    recipe = new_recipe(distill=distill, epochs=1, weights="weights/teacher.pth", model=model)
    run(recipe, tmp_path, tmp_path / "run")
    names = load_checkpoint(tmp_path / "run").model.state_dict()
    assert not any("teacher" in name or "layer3" in name for name in names)


def test_the_schedule_warms_up_and_ends_at_zero(new_recipe):
    recipe = new_recipe(epochs=10, schedule={"name": "poly", "warmup_epochs": 2, "power": 1})
    network = torch.nn.Linear(2, 2)
    optimizer = optimizer_for(network, OptimizerConfig(lr=1.0), backbone=network)
    schedule = schedule_for(optimizer, recipe, steps=100)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1 / 21)
    assert rates[20] == pytest.approx(1)
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == 0


def test_the_optimizer_spares_biases_and_slows_the_backbone():
    spec = build_model(
        "vit_conv_stem", {"dim": 16, "depth": 1, "heads": 2, "blocks_per_stage": 1}, num_classes=3
    )
    config = OptimizerConfig(lr=1.0, weight_decay=0.1, backbone_lr_scale=0.5)
    optimizer = optimizer_for(spec.network, config, backbone=spec.backbone)
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    named = {name: settings[id(p)] for name, p in spec.network.named_parameters()}
    assert len(named) == len(settings)
    assert named["patch_embed.backbone.conv1.weight"] == (0.5, 0.1)
    assert named["patch_embed.backbone.bn1.weight"] == (0.5, 0.0)
    assert named["blocks.0.attn.qkv.weight"] == (1.0, 0.1)
    assert named["blocks.0.attn.qkv.bias"] == (1.0, 0.0)
    assert named["pos_embed"] == named["cls_token"] == (1.0, 0.0)
