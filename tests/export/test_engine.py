"""Every kind of graph that export makes builds with TensorRT-RTX, and its plan goes where it was asked for."""

import hashlib
import json
import shutil

import pytest

from dlcv.export.engine import (
    EngineBuild,
    engine_into_bundle,
    engine_into_cache,
    engine_into_file,
    largest_sides,
)
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines import EngineOptions, engine_model
from dlcv.runtime.engines.tensorrt.plans import plan_key
from dlcv.runtime.errors import EngineUnavailableError, InputError, OutputError
from dlcv.runtime.machine.cache import cache_folder, lookup
from dlcv.runtime.machine.system import is_importable

pytest.importorskip("tensorrt_rtx")
RTX = EngineBuild(target="rtx")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copied(tmp_path):
    return open_bundle(shutil.copytree(open_bundle("camvid-lraspp").path, tmp_path / "camvid"))


@pytest.mark.parametrize("name", ["vit", "cnn", "segmenter", "cifar_resnet"])
def test_each_wrapper_builds_without_a_gpu(bundles, name):
    made = engine_into_cache(bundles(name), RTX)
    assert made.plan.shares == {"fp32": 1.0}
    assert lookup(plan_key(made.request)).data == made.plan.data
    assert made.path.is_relative_to(cache_folder())


def test_a_plan_in_a_bundle_is_listed_with_its_hash_and_offered_to_the_engine(copied):
    made = engine_into_bundle(copied, EngineBuild(target="rtx", outputs=["mask"]))
    again = open_bundle(copied.path)
    (plan,) = again.variant().plans
    assert made.path == copied.path / plan.file
    assert again.manifest.files[plan.file].sha256 == hashlib.sha256(made.plan.data).hexdigest()
    assert plan.fields == made.request.fields
    (offered,) = engine_model(again, outputs=["mask"]).plans
    assert offered.read() == made.plan.data
    assert engine_model(again).plans == ()  # a graph with other outputs


def test_a_plan_for_the_same_is_replaced_and_others_stay(copied):
    mask = EngineBuild(target="rtx", outputs=["mask"])
    engine_into_bundle(copied, mask)
    engine_into_bundle(open_bundle(copied.path), RTX)
    engine_into_bundle(open_bundle(copied.path), mask)
    again = open_bundle(copied.path)
    files = [plan.file for plan in again.variant().plans]
    assert len(files) == 2
    assert sorted(f for f in again.manifest.files if f.startswith("plans/")) == sorted(files)
    assert sorted(path.name for path in (copied.path / "plans").iterdir()) == sorted(
        file.removeprefix("plans/") for file in files
    )


def test_a_builtin_bundle_stays_as_it_is():
    with pytest.raises(InputError, match="ships with dlcv and stays as it is; copy"):
        engine_into_bundle(open_bundle("cifar10-vit"), RTX)


def test_a_bare_plan_has_its_story_beside_it(copied, tmp_path):
    made = engine_into_file(copied, RTX, out=tmp_path / "deep" / "a.plan")
    assert made.path.read_bytes() == made.plan.data
    story = json.loads((tmp_path / "deep" / "a.plan.json").read_text())
    assert story["plan_sha256"] == hashlib.sha256(made.plan.data).hexdigest()
    assert story["fields"] == made.request.fields
    assert sorted(path.name for path in made.path.parent.iterdir()) == ["a.plan", "a.plan.json"]


def test_a_file_that_is_there_is_not_replaced(copied, tmp_path):
    (tmp_path / "a.plan.json").touch()
    with pytest.raises(OutputError, match="json exists; choose another name"):
        engine_into_file(copied, RTX, out=tmp_path / "a.plan")


def test_sizes_and_batches_become_the_profile(copied):
    options = EngineOptions(settings={"profile": "2,4,16"})
    build = EngineBuild(target="rtx", largest=largest_sides(copied, 643), options=options)
    made = engine_into_cache(copied, build)
    assert made.request.fields["profile"] == "batch 2,4,16; height 8,640,640; width 8,640,640"


def test_a_bundle_of_fixed_size_takes_no_other():
    with pytest.raises(InputError, match="runs at 32x32 only; leave out --size"):
        largest_sides(open_bundle("cifar10-vit"), 64)


def test_tensorrt_itself_needs_a_gpu_or_says_what_is_missing(copied):
    if is_importable("tensorrt"):
        pytest.skip("TensorRT is here")
    with pytest.raises(
        EngineUnavailableError, match=r"not installed; get it with pip install 'dlcv\[trt"
    ):
        engine_into_cache(copied, EngineBuild(target="trt"))
