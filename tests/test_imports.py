"""Imports go downward only, and nothing heavy is imported before it is needed."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
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

# The rooms of runtime/, from the ground up: a room imports only from itself and from those before it. The front door,
# `runtime/__init__.py`, imports from all.
ROOMS = (
    "errors", "machine", "bundle", "images", "engines", "results", "running", "evaluate", "caption", "fewshot", "measure", "serving",
)  # fmt: skip

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

SERVING = (
    "dlcv.runtime.serving."  # its modules are imported by what serves, which needs its extra anyway
)

IMPORT_ALL = f"""
count = 0
for root in ("dlcv", "dlcv.runtime", "dlcv.cli"):
    package = importlib.import_module(root)
    count += 1
    if root == "dlcv":
        continue
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if not module.name.endswith("__main__"):
            if not module.name.startswith({SERVING!r}):
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
    serving = REPOSITORY / "runtime" / "serving"
    modules = [
        path
        for path in sources
        if path.name != "__main__.py" and (path.parent != serving or path.name == "__init__.py")
    ]
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


def test_the_rooms_of_the_runtime_are_these():
    found = {path.stem for path in (REPOSITORY / "runtime").iterdir() if _is_room(path)}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_runtime_imports_only_from_rooms_below(room):
    below = {*ROOMS[: ROOMS.index(room)], room}
    folder = REPOSITORY / "runtime" / room
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports dlcv.runtime.{target}"
        for path in paths
        for line, target in _rooms_imported(path)
        if target not in below
    ]
    assert not wrong, "\n".join(wrong)


def test_the_files_of_a_room_import_each_other_without_circles():
    """Imports for types count too: what needs another's types cannot be understood without it."""
    for room in (REPOSITORY / "runtime").iterdir():
        if room.is_dir() and _is_room(room):
            edges = {path.stem: _files_imported(path, room) for path in room.glob("*.py")}
            list(
                TopologicalSorter(edges).static_order()
            )  # raises CycleError, which names the files


def _is_room(path: Path) -> bool:
    return (path.is_dir() and (path / "__init__.py").exists()) or path.stem == "errors"


def _rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import of the runtime's own in a file."""
    for line, names in _imports(path):
        for name in names:
            parts = name.split(".")
            if parts[:2] == ["dlcv", "runtime"] and len(parts) > 2:
                yield line, parts[2] if parts[2] in ROOMS else "the front door"


def _files_imported(path: Path, room: Path) -> set[str]:
    """Names of the files of the same room that a file imports."""
    prefix = f"dlcv.runtime.{room.name}."
    found = {n.removeprefix(prefix).split(".")[0] for _, names in _imports(path) for n in names}
    return {name for name in found if (room / f"{name}.py").exists()} - {path.stem}


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
    for line, names in _imports(path, root=root):
        for name in names:
            parts = name.split(".")
            if parts[0] == "dlcv" and len(parts) > 1 and parts[1] in MAY_IMPORT:
                yield line, parts[1]


def _imports(path: Path, *, root: Path = REPOSITORY) -> Iterator[tuple[int, list[str]]]:
    """Line and full names of each import in a file, wherever it stands."""
    package = ["dlcv", *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if names := _names_imported(node, package=package):
            yield node.lineno, names  # type: ignore[attr-defined]  # import nodes have it


def _names_imported(node: ast.AST, *, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
        return [f"{module}.{alias.name}" for alias in node.names]
    return []
