"""What is installed: one package, dlcv, with all files of the four folders, and nothing else."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "export", "runtime", "train")
# Each kind of data that the folders may hold, whether or not they hold one today.
DATA = (
    "runtime/schema.json",
    "runtime/bundles/some-bundle/model.onnx",
    "runtime/bundles/some-bundle/golden/input.npz",
    "runtime/samples/some/photo.jpg",
    "train/recipes/some-recipe.yaml",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Copy of what a build reads, links kept, with one file of each kind of data added."""
    tree = tmp_path_factory.mktemp("packaging") / "tree"
    tree.mkdir()
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *FOLDERS):
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True, ignore=skip)
    for name in DATA:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("placeholder")
    return tree


@pytest.fixture(scope="module")
def expected(tree):
    """Every file of the four folders, as it is to be named in the wheel."""
    files = (path for folder in FOLDERS for path in (tree / folder).rglob("*") if path.is_file())
    ours = {f"dlcv/{path.relative_to(tree).as_posix()}" for path in files}
    return ours | {"dlcv/__init__.py", "dlcv/py.typed", "dlcv/serving.py"}


@pytest.fixture(scope="module")
def wheel(tree):
    return build("build_wheel", tree)


def build(hook: str, tree: Path) -> Path:
    """Call a PEP 517 hook of setuptools, as pip does, but without a download; returns the file made."""
    out = tree.parent / hook
    program = f"from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}))"
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def files_of_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_every_file_of_the_folders_and_nothing_else(wheel, expected):
    missing_or_extra = files_of_wheel(wheel) ^ expected
    assert not missing_or_extra, (
        "a module's folder needs an __init__.py; other files are named under "
        "[tool.setuptools.package-data] in pyproject.toml"
    )


def test_a_wheel_holds_each_kind_of_data(wheel):
    assert {f"dlcv/{name}" for name in DATA} <= files_of_wheel(wheel)


def test_a_checkout_without_links_makes_the_same_wheel(tree, expected, tmp_path):
    unlinked = tmp_path / "tree"
    shutil.copytree(
        tree, unlinked, symlinks=True, ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    for folder in FOLDERS:  # as git does where it cannot make links
        link = unlinked / "src" / "dlcv" / folder
        target = link.readlink().as_posix()
        link.unlink()
        link.write_text(target)
    assert files_of_wheel(build("build_wheel", unlinked)) == expected


def test_a_source_archive_makes_the_same_wheel(tree, expected, tmp_path):
    with tarfile.open(build("build_sdist", tree)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("dlcv-*")
    assert files_of_wheel(build("build_wheel", unpacked)) == expected


def test_an_editable_install_is_live(tree):
    """It is one line that names src, so that a new file is seen without installing again."""
    with zipfile.ZipFile(build("build_editable", tree)) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        (path_file,) = files
        assert PurePosixPath(path_file).suffix == ".pth"
        assert archive.read(path_file).decode().strip() == str(tree / "src")


def test_bare_folder_names_are_not_importable_from_an_installed_wheel(wheel, tmp_path):
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    program = (
        "import sys; from importlib.util import find_spec\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "print(find_spec('dlcv').origin)\n"
        f"print([name for name in {FOLDERS} if find_spec(name)])\n"
    )
    # -I -S: neither this folder nor this environment's packages are looked at.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(target / "dlcv" / "__init__.py"), "[]"]
    assert {path.name for path in target.iterdir() if ".dist-info" not in path.name} == {
        "bin",
        "dlcv",
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_bare_folder_names_are_not_importable_while_testing(name):
    assert importlib.util.find_spec(name) is None
