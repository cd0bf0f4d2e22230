"""Imports go downward only, and nothing heavy is imported before it is needed."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Folder -> the other folders that it may import (docs: CONTRIBUTING.md, "Imports go downward only").
MAY_IMPORT = {
    "runtime": set(),
    "train": {"runtime"},
    "export": {"runtime", "train"},
    "cli": {"runtime", "train", "export"},
}

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SCRIPTS = PYPROJECT["project"]["scripts"]
TIDY_IMPORTS = PYPROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]
OPTIONAL = set(TIDY_IMPORTS["banned-module-level-imports"])

BLOCK_OPTIONAL_PACKAGES = f"""
import importlib, importlib.abc, pkgutil, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ImportError(f"{{name}} is imported at module level")
        return None

sys.meta_path.insert(0, Block())
"""

IMPORT_ALL = """
count = 0
for root in ("dlcv", "dlcv.runtime", "dlcv.cli"):
    package = importlib.import_module(root)
    count += 1
    if root == "dlcv":
        continue
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""

PRINT_HELP = """
sys.argv = [{script!r}, "--help"]
main = importlib.import_module({module!r}).main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
assert "numpy" not in sys.modules, "import numpy inside the function that needs it: help takes twice as long with it"
"""


def _python(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONWARNINGS": "error", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_runtime_and_cli_import_without_any_optional_package():
    done = _python(BLOCK_OPTIONAL_PACKAGES + IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    sources = [*(REPOSITORY / "runtime").rglob("*.py"), *(REPOSITORY / "cli").rglob("*.py")]
    modules = [path for path in sources if path.name != "__main__.py"]
    assert int(done.stdout) == len(modules) + 1, "every module was imported, and dlcv itself"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_prints_its_help_without_any_optional_package(script):
    module, _, function = SCRIPTS[script].partition(":")
    assert function == "main"
    done = _python(BLOCK_OPTIONAL_PACKAGES + PRINT_HELP.format(script=script, module=module))
    assert done.returncode == 0, done.stderr
    assert f"Usage: {script}" in done.stdout


def test_importing_dlcv_prints_nothing():
    done = _python("import dlcv, dlcv.cli, dlcv.runtime")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_downward(folder):
    allowed = {folder, *MAY_IMPORT[folder]}
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports dlcv.{target}"
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for line, target in _folders_imported(path)
        if target not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_every_form_of_import(tmp_path):
    package = tmp_path / "runtime"
    package.mkdir()
    source = package / "sly.py"
    source.write_text(
        "import dlcv.train.data\n"
        "from dlcv import export, load\n"
        "from dlcv.cli.infer import app\n"
        "from ..train import recipes\n"
        "def late():\n    import dlcv.train\n"
    )
    found = list(_folders_imported(source, root=tmp_path))
    assert found == [(1, "train"), (2, "export"), (3, "cli"), (4, "train"), (6, "train")]


def _folders_imported(path: Path, *, root: Path = REPOSITORY) -> Iterator[tuple[int, str]]:
    """Line and top-level folder of each import of ours in a file, wherever it stands."""
    package = ["dlcv", *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        for name in _names_imported(node, package=package):
            parts = name.split(".")
            if parts[0] == "dlcv" and len(parts) > 1 and parts[1] in MAY_IMPORT:
                yield node.lineno, parts[1]  # type: ignore[attr-defined]  # import nodes have it


def _names_imported(node: ast.AST, *, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
        return [f"{module}.{alias.name}" for alias in node.names]
    return []
