import pytest
import torch
from typer.testing import CliRunner

from dlcv.cli.train.app import app
from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.fit import snapshot_folder
from dlcv.train.models import build_model


def drawn(run, root, *options):
    """Run the command; return the names of its PNG files and the lines about what it skipped."""
    arguments = ["figures", str(run), "--data", str(root), *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    skipped = [line for line in lines if line.startswith("skipped ")]
    return {path.name for path in run.glob("figures/*")}, skipped


@pytest.fixture
def new_run(new_recipe, tmp_path):
    """Make a run as `fit` leaves it, untrained."""

    def run(task, **changes):
        recipe, folder = new_recipe(task, **changes), tmp_path / "run"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            spec = build_model(recipe.model.name, recipe.model.options, num_classes=3)
        for path in (folder, *(snapshot_folder(folder, epoch) for epoch in recipe.snapshots)):
            save_checkpoint(path, spec.network, recipe=recipe, metrics={"epoch": 1})
        (folder / "log/version_0").mkdir(parents=True)
        log = "epoch,step,loss_step,val_loss\n0,0,1.5,\n0,1,,1.25\n"
        (folder / "log/version_0/metrics.csv").write_text(log)
        return folder

    return run


def test_a_classifier_gets_its_curves(new_run, toy_data):
    files, _ = drawn(new_run("classify"), toy_data)
    assert {"curves-epoch.png", "curves-step.png"} <= files


def test_what_does_not_fit_is_a_line_that_says_why(new_run, toy_data):
    run = new_run("classify")
    (run / "log/version_0/metrics.csv").unlink()
    files, skipped = drawn(run, toy_data)
    assert "curves-epoch.png" not in files
    assert any("curves: " in line and "has no log" in line for line in skipped)


def test_a_segmenter_gets_its_scores_by_class_and_masks(new_run, toy_data):
    files, skipped = drawn(new_run("segment", snapshots=[1]), toy_data, "--images", "f")
    assert {"confusion.png", "iou.png", "iou.csv", "masks.png"} <= files
    assert not any("masks" in line for line in skipped)


def test_a_classifier_has_no_masks(new_run, toy_data):
    files, skipped = drawn(new_run("classify"), toy_data)
    assert "masks.png" not in files
    assert "skipped masks: the run classifies" in skipped
