"""A run of BYOL has curves and maps of its embeddings, and its data can be looked at; what does not fit is said."""

from typer.testing import CliRunner

from dlcv.cli.train.app import app
from dlcv.train.figures.report import draw_figures
from dlcv.train.figures.request import Request
from dlcv.train.fit import fit
from dlcv.train.recipe import yaml_from_recipe


def test_what_fits_is_drawn(new_byol, toy_data, tmp_path):
    fit(new_byol(), toy_data, out=tmp_path / "run")
    lines = list(draw_figures(Request(run=tmp_path / "run", root=toy_data, out=tmp_path)))
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"curves-epoch", "curves-step", "pca", "tsne", "filters"}
    assert "skipped confusion: not drawn of runs of task byol" in lines


def test_the_data_are_summarised_before_a_run(new_byol, toy_data, tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml_from_recipe(new_byol()))
    ran = CliRunner().invoke(app, ["data", str(tmp_path / "toy.yaml"), "--data", str(toy_data)])
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("unlabelled: ")
    assert "training: " in ran.stdout
