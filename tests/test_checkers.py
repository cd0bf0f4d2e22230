"""`make check` really sees the code: each tool, with this project's settings, finds a mistake in every folder."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "export", "runtime", "train")


@pytest.fixture(scope="module")
def wrong_tree(tmp_path_factory):
    """This project's settings and links over four tiny folders, each with one module full of mistakes."""
    tree = tmp_path_factory.mktemp("checkers")
    shutil.copy(REPOSITORY / "pyproject.toml", tree)
    shutil.copytree(
        REPOSITORY / "src", tree / "src", symlinks=True, ignore=shutil.ignore_patterns("*.egg-info")
    )
    (tree / "src" / "dlcv" / "__init__.py").write_text('"""Nothing."""\n')
    for folder in FOLDERS:
        (tree / folder).mkdir()
        (tree / folder / "__init__.py").write_text('"""Nothing."""\n')
        (tree / folder / "wrong.py").write_text(
            f'"""Wrong."""\n\nimport onnxruntime\nimport {folder}\n\nnumber: int = "text"\n'
        )
    for folder in ("tests", "bench"):
        (tree / folder).mkdir()
        (tree / folder / f"{folder}_wrong.py").write_text(
            'def test_it():\n    number: int = "text"\n    assert number\n'
        )
    return tree


def report(tree: Path, tool: str, *arguments: str) -> str:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; pip install 'dlcv[dev]'")
    command = [sys.executable, "-m", tool, *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_a_wrong_type_is_found_in_every_folder(wrong_tree, tool):
    output = report(wrong_tree, tool)
    lines = [line for line in output.splitlines() if "wrong.py:" in line and "error" in line]
    for folder in FOLDERS:
        found = [line for line in lines if f"src/dlcv/{folder}/wrong.py:6" in line]
        assert len(found) == 1, f"{tool} reads {folder} once, through src/dlcv\n{output}"
    for folder in ("tests", "bench"):
        assert any(f"{folder}/{folder}_wrong.py:2" in line for line in lines), output


def test_a_bare_folder_name_is_found_in_every_folder(wrong_tree):
    output = report(wrong_tree, "ruff", "check", "--output-format=concise")
    for folder in FOLDERS:
        assert output.count(f"{folder}/wrong.py:4:8: TID251") == 1, "once, not through src/dlcv too"


def test_a_heavy_import_at_module_level_is_found_where_it_is_forbidden(wrong_tree):
    output = report(wrong_tree, "ruff", "check", "--output-format=concise")
    found = {folder for folder in FOLDERS if f"{folder}/wrong.py:3:8: TID253" in output}
    assert found == {"runtime", "cli"}
