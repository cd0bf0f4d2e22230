"""An exported bundle opens, replays its golden cases, says what it is, and can be verified."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from dlcv.export.bundle import export_bundle, verify_bundle
from dlcv.export.schema import schema_text
from dlcv.export.writing import BundleOptions
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import BundleError, InputError, OutputError, ParityError
from dlcv.runtime.measure.parity import replay_golden

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = REPOSITORY / "docs" / "bundle.schema.json"
NAMES = ["vit", "cnn", "segmenter"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_cases_replay(bundles, name):
    bundle = open_bundle(bundles(name).path)
    with load_engine(bundle, "ort") as engine:
        result = replay_golden(bundle, engine)
    assert not result.failures
    assert set(result.outputs) == {spec.name for spec in bundle.graph().outputs}
    assert [len(case.inputs["image"]) for case in bundle.golden()] == [1, 2]


def test_golden_decisions_are_those_of_the_untouched_model(bundles, make_source):
    source = make_source("vit")
    case = next(bundles("vit").golden())
    pixels = (case.inputs["image"] / 255 - np.array(source.mean)) / np.array(source.std)
    with torch.inference_mode():
        logits = source.model(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32))
    np.testing.assert_allclose(case.outputs["probabilities"], logits.softmax(1), atol=1e-6)


def test_an_engine_that_answers_otherwise_is_found(bundles):
    bundle = bundles("cnn")
    with load_engine(bundle, "ort") as engine:

        def turned(feeds):
            answers = engine.infer(feeds)
            return answers | {"probabilities": answers["probabilities"][:, ::-1]}

        failures = replay_golden(bundle, FakeEngine(bundle.graph(), turned)).failures
    assert any(f.startswith("golden case case1: 'probabilities' has a largest") for f in failures)


def test_a_changed_file_is_found(bundles, tmp_path):
    bundle = bundles("cnn")
    for file in ("model.onnx", "golden/case1.npz", "manifest.json", "README.md"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((bundle.path / file).read_bytes())
    (tmp_path / "golden" / "case2.npz").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"golden/case2.npz is not the file that was exported"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_fits_the_published_schema(bundles, name):
    manifest = json.loads((bundles(name).path / "manifest.json").read_bytes())
    jsonschema.validate(manifest, json.loads(SCHEMA.read_text()))


def test_the_published_schema_is_current():
    assert SCHEMA.read_text() == schema_text(), "docs/bundle.schema.json is stale: run make docs"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_a_folder_of_this_machine(bundles, name, tmp_path):
    for file in bundles(name).path.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert str(REPOSITORY).encode() not in data
            assert str(tmp_path.parent.parent).encode() not in data
            assert b"/home/" not in data


def test_the_card_says_what_a_user_asks(bundles):
    card = (bundles("vit").path / "README.md").read_text()
    for title in (
        "Use",
        "Input and outputs",
        "Classes",
        "Data",
        "Licence",
        "Parity",
        "Limits",
        "Made by",
    ):
        assert f"\n## {title}\n" in card
    assert "dlcv-infer attend photo.jpg -m tiny-vit" in card
    assert "dlcv-export bundle vit -o tiny-vit" in card
    assert "attention rollout" in card
    assert "class activation map" in (bundles("cnn").path / "README.md").read_text()


def test_a_bundle_that_is_there_is_not_replaced(bundles, make_source):
    before = (bundles("cnn").path / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="exists; choose another name or give --overwrite"):
        export_bundle(make_source("cnn"), bundles("cnn").path)
    assert (bundles("cnn").path / "manifest.json").read_bytes() == before


def test_name_licence_and_overwriting_are_options(make_source, tmp_path):
    export_bundle(make_source("cnn"), tmp_path / "b")
    told: list[str] = []
    options = BundleOptions(name="mine", licence="MIT", overwrite=True, progress=told.append)
    bundle = export_bundle(make_source("cnn"), tmp_path / "b", options)
    assert (bundle.manifest.name, bundle.manifest.licence) == ("mine", "MIT")
    assert open_bundle(tmp_path / "b").manifest == bundle.manifest
    assert told[0] == "exporting the graph"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_agrees_with_its_own_checkpoint(bundles, make_source):
    report = verify_bundle(bundles("vit").path, make_source("vit"), engine="ort")
    assert set(report.outputs) == {"probabilities", "embedding", "explanation", "attention"}


def test_a_bundle_does_not_agree_with_another_checkpoint(bundles, make_source):
    model = make_source("vit").model
    torch.nn.init.ones_(model.head.bias[:1])
    with pytest.raises(ParityError, match="'probabilities' has a largest difference"):
        verify_bundle(bundles("vit").path, make_source("vit", model=model), engine="ort")


def test_other_classes_or_preprocessing_are_another_checkpoint(bundles, make_source):
    source = make_source("vit")
    other = replace(
        source,
        classes=source.classes[::-1],
        preprocessing=Preprocessing(resize="center_crop", size=(32, 32)),
    )
    with pytest.raises(ParityError, match="classes, preprocessing differ"):
        verify_bundle(bundles("vit").path, other)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "-x", "x" * 101])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="a bundle's name has letters"):
        BundleOptions(name=name)


def test_an_image_that_cannot_be_read_is_named(make_source, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"not a photo")
    with pytest.raises(InputError, match=r"a\.jpg: not an image in a known format"):
        export_bundle(make_source("cnn"), tmp_path / "b", BundleOptions(images=(tmp_path,)))
