import pytest
import torch
from typer.testing import CliRunner

from dlcv.cli.train.app import app
from dlcv.runtime.errors import InputError
from dlcv.runtime.images.samples import sample_paths
from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.figures.request import Request
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
    files, _ = drawn(new_run("classify"), toy_data, "--only", "curves")
    assert files == {"curves-epoch.png", "curves-step.png"}


def test_what_does_not_fit_is_a_line_that_says_why(new_run, toy_data):
    run = new_run("classify")
    (run / "log/version_0/metrics.csv").unlink()
    files, (skipped,) = drawn(run, toy_data, "--only", "curves")
    assert not files
    assert "curves: " in skipped
    assert "has no log" in skipped


def test_a_segmenter_gets_its_scores_by_class_and_masks(new_run, toy_data):
    files, skipped = drawn(new_run("segment", snapshots=[1]), toy_data, "--images", "f")
    assert {"confusion.png", "iou.png", "iou.csv", "masks.png", "activations.png"} <= files
    assert [line.partition(":")[0] for line in skipped] == [
        f"skipped {name}" for name in ("pca", "tsne", "positions", "attention")
    ]


def test_a_classifier_has_no_masks(new_run, toy_data):
    files, skipped = drawn(new_run("classify"), toy_data, "--only", "masks")
    assert not files
    assert skipped == ["skipped masks: the run classifies"]


def test_a_vit_gets_every_figure_of_a_classifier(new_run, toy_data):
    photo = str(sample_paths()[0])
    files, skipped = drawn(new_run("classify"), toy_data, "--photos", photo, "--points", "10")
    assert skipped == ["skipped masks: the run classifies"]
    assert files == {
        f"{name}.png"
        for name in (
            "curves-epoch", "curves-step", "confusion", "pca", "tsne", "filters", "activations", "positions", "attention",
        )
    }  # fmt: skip


def test_a_cnn_has_no_attention(new_run, toy_data):
    run = new_run("classify", model={"name": "small_cnn"})
    wanted = ("positions", "attention", "activations")
    files, skipped = drawn(run, toy_data, *(part for name in wanted for part in ("--only", name)))
    assert files == {"activations.png"}
    assert skipped == [
        "skipped positions: the network has no learned position of each patch",
        "skipped attention: the network is no vision transformer with a class token",
    ]


def test_a_figure_that_does_not_exist_is_refused_with_the_names_of_all(new_run, toy_data):
    with pytest.raises(InputError, match="--only umap: no such figure; figures: curves, confusion"):
        drawn(new_run("classify"), toy_data, "--only", "umap")


def test_a_snapshot_of_the_epoch_that_was_kept_is_not_drawn_twice(new_run, toy_data):
    run = new_run("classify", snapshots=[1, 2])
    (run / "epoch-002/metrics.json").write_text('{"epoch": 2, "accuracy": 0.5}')
    request = Request(run=run, root=toy_data, out=run)
    assert [title for title, _ in request.checkpoints()] == ["epoch 2", "kept, epoch 1"]
