import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dlcv.cli.train.app import app
from dlcv.train.recipe import builtin_recipes, load_recipe, recipe_from_yaml, yaml_from_recipe


def dlcv_train(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from dlcv.cli.train.app import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_recipes_lists_a_line_each_and_shows_one():
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in listed] == list(builtin_recipes())
    shown = CliRunner().invoke(app, ["recipes", "--show", "camvid-lraspp"]).output
    assert recipe_from_yaml(shown) == load_recipe("camvid-lraspp")


def test_descriptions_of_recipes_start_in_one_column():
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    starts = {
        line.index(load_recipe(name).description)
        for name, line in zip(builtin_recipes(), listed, strict=True)
    }
    assert starts == {max(map(len, builtin_recipes())) + 2}


def test_on_a_terminal_descriptions_of_recipes_wrap_under_their_column(monkeypatch):
    monkeypatch.setattr("dlcv.cli.text.terminal_width", lambda: 60)
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    column = max(map(len, builtin_recipes())) + 2
    assert len(listed) > len(builtin_recipes())
    assert max(map(len, listed)) <= 60
    assert {line[column - 2 : column] for line in listed} == {"  "}
    assert all(line[column] != " " for line in listed)


@pytest.mark.parametrize("command", ["fit", "evaluate", "recipes"])
def test_help_has_examples(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"dlcv-train {command}" in result.output


def test_help_loads_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from dlcv.cli.train.app import app;"
        "CliRunner().invoke(app, ['fit', '--help']); print({'torch', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_user_error_is_one_line_and_exit_code_1(tmp_path):
    done = dlcv_train("fit", "no-such-recipe", "--data", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("dlcv-train: no-such-recipe: no readable recipe file")
    assert done.stderr.count("\n") == 1


def test_fit_then_evaluate_agree(new_recipe, toy_data, tmp_path):
    recipe, run = tmp_path / "mine.yaml", tmp_path / "run"
    recipe.write_text(yaml_from_recipe(new_recipe()))
    fitted = dlcv_train("fit", recipe, "--data", toy_data, "--out", run, "--epochs", 1)
    assert fitted.returncode == 0, fitted.stderr
    assert "epoch 1/1" in fitted.stderr
    options = ["evaluate", str(run), "--data", str(toy_data)]
    scores = json.loads(CliRunner().invoke(app, [*options, "--json"]).output)
    assert fitted.stdout == f"{run}: accuracy {scores['accuracy']:.4f} on 16 images\n"
    assert "accuracy" in CliRunner().invoke(app, options).output
