"""Bundles by name: those in dlcv, and those that packages bring by an entry point."""

import shutil
from pathlib import Path

import pytest

from dlcv.runtime.bundle import BUILTIN_FOLDER, open_bundle, ready
from dlcv.runtime.errors import BundleError
from dlcv.runtime.measure import doctor


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classify_bundle: Path) -> Path:
    """A package `pets_bundles`, installed, with a bundle `pets`; its code must not be run."""
    package = tmp_path / "pets_bundles"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(classify_bundle, package / "pets")
    metadata = tmp_path / "pets-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pets\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[dlcv.bundles]\npets = pets_bundles\ngone = pets_bundles\nlost = no_such_package\n"
        "camvid-lraspp = pets_bundles\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return package / "pets"


def test_a_package_brings_a_bundle_that_opens_by_its_name(added: Path) -> None:
    bundle = open_bundle("pets")
    assert bundle.path == added.resolve()
    assert bundle.ships_with_dlcv  # so it is not changed
    assert "pets" in ready.ready_names()
    assert ("pets", "ready") in doctor._bundle_states()


def test_a_name_of_dlcvs_own_stays_dlcvs(added: Path) -> None:
    assert open_bundle("camvid-lraspp").path == (BUILTIN_FOLDER / "camvid-lraspp").resolve()


@pytest.mark.parametrize("name", ["gone", "lost", "..", "pets/../pets", ""])
def test_what_is_not_there_is_no_bundle(
    added: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ready.ready_folder(name) is None


def test_a_copy_may_be_changed(added: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "pets"
    shutil.copytree(added, copy)
    assert not open_bundle(copy).ships_with_dlcv


def test_a_bundle_that_is_a_package_of_its_own_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ready, "_added", lambda: ())
    with pytest.raises(BundleError, match=r"package of its own.*pip install \./packages/vit"):
        open_bundle("imagenette-vit")
    states = dict(doctor._bundle_states())
    assert "pip install ./packages/vit" in states["imagenette-vit"]
    assert not doctor.builtin_trouble()  # dlcv itself is whole
