"""`dlcv-export record` writes a record and prints its path; what is missing is one sentence."""

import pytest
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.export.systems.records import load_records
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import OutputError, RecipeError


def run(*arguments):
    return CliRunner().invoke(app, ["record", *map(str, arguments)], catch_exceptions=True)


def test_a_network_that_was_not_trained_is_recorded_as_such(tmp_path):
    result = run("cifar10-net2", "--untrained", "-o", tmp_path / "runs", "--bundle", tmp_path / "b")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'runs' / 'cifar10-net2.json'}\n"
    assert "differences from PyTorch: probabilities " in result.stderr
    record = load_records(tmp_path / "runs")["cifar10-net2"]
    assert (record.training, record.checkpoint, record.ran) == (None, None, ())
    assert record.start.startswith("random weights")
    assert record.parameters == 390_410
    assert record.exported.parity == open_bundle(tmp_path / "b").variant().parity


def test_an_unknown_recipe_is_named(tmp_path):
    result = run("no-such-recipe", "--untrained", "-o", tmp_path)
    assert isinstance(result.exception, RecipeError)
    assert "no built-in recipe has this name" in str(result.exception)


def test_a_bundle_that_is_there_is_refused_before_the_work(tmp_path):
    (tmp_path / "bundle").mkdir()
    result = run(tmp_path, "--data", tmp_path, "-o", tmp_path)
    assert isinstance(result.exception, OutputError)
    assert "give --overwrite" in str(result.exception)


@pytest.mark.parametrize("option", ["--untrained", "--note", "--overwrite"])
def test_help_names_the_options_and_has_examples(option):
    result = run("--help")
    assert option in result.stdout
    assert "Examples:\n    dlcv-export record " in result.stdout
