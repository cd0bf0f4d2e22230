"""The bundles that ship with dlcv: small, whole, right on shipped photos and on real test sets."""

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dlcv
from dlcv.runtime import Classification, EngineOptions, Segmentation, load_engine, open_bundle
from dlcv.runtime.bundle import BUILTIN, BUILTIN_FOLDER
from dlcv.runtime.images.samples import SAMPLES_FOLDER
from dlcv.runtime.measure.parity import replay_golden

NAMES = sorted(set(BUILTIN.values()))
MAX_BYTES = 15_000_000


def test_together_they_are_small() -> None:
    files = [path for path in BUILTIN_FOLDER.rglob("*") if path.is_file()]
    assert sorted({path.relative_to(BUILTIN_FOLDER).parts[0] for path in files}) == NAMES
    assert sum(path.stat().st_size for path in files) < MAX_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_gives_what_pytorch_gave(name: str) -> None:
    bundle = open_bundle(name)
    with load_engine(bundle, "ort") as engine:
        assert replay_golden(bundle, engine).failures == ()


@pytest.mark.parametrize("name", NAMES)
def test_manifest_and_card_say_what_a_user_must_know(name: str) -> None:
    bundle = open_bundle(name)
    card = bundle.read("README.md").decode()
    assert bundle.manifest.metrics
    assert "research" in bundle.manifest.licence
    assert "dlcv-train fit" in card
    assert "dlcv-export bundle" in card
    everything = card + json.dumps(bundle.manifest.provenance.recipe)
    assert not re.search(r"[\s\"'(`]/[a-z]+/", everything)  # no path of the machine that made it


def test_a_street_is_mostly_road_with_cars_on_it() -> None:
    with dlcv.load("camvid-lraspp", engine="ort") as model:
        (result,) = model(SAMPLES_FOLDER / "street_avenue.jpg")
    assert isinstance(result, Segmentation)
    assert result.mask.shape == (614, 1024)
    assert result.shares["road"] > 0.3
    assert result.shares["car"] > 0.08
    assert result.classes[result.mask[350, 540]].name == "car"
    assert result.classes[result.mask[580, 700]].name == "road"
    assert result.confidence is not None
    assert result.confidence.mean() > 0.6


def test_a_car_is_an_automobile_and_its_maps_are_maps() -> None:
    with dlcv.load("cifar10-vit", engine="ort") as model:
        (result,) = model(SAMPLES_FOLDER / "car.jpg")
    assert isinstance(result, Classification)
    assert result.label.name == "automobile"
    assert result.attention is not None
    assert result.explanation is not None
    assert result.attention.shape[1:] == result.explanation.shape == (16, 16)
    assert result.explanation.max() == pytest.approx(1)
    assert (result.attention.sum(axis=(1, 2)) <= 1 + 1e-5).all()


def test_the_classifier_is_as_accurate_as_its_card_says(data_root: Path) -> None:
    folder = data_root / "classification" / "cifar10"
    with Image.open(folder / "test_00.webp") as sheet:
        tiles = np.asarray(sheet.convert("RGB")).reshape(25, 32, 40, 32, 3)
    images = tiles.transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)
    labels = np.load(folder / "test_labels.npy")[:1000]
    with dlcv.load(
        "cifar10-vit", engine="ort", outputs=["probabilities"], options=EngineOptions(batch_size=50)
    ) as model:
        predicted = [r.label.index for r in model(list(images)) if isinstance(r, Classification)]
    accuracy = float((np.array(predicted) == labels).mean())
    assert accuracy >= 0.78
    metrics = {metric.name: metric.value for metric in open_bundle("cifar10-vit").manifest.metrics}
    assert accuracy == pytest.approx(metrics["accuracy"], abs=0.03)


def test_the_segmenter_is_as_accurate_as_its_card_says(data_root: Path) -> None:
    """Mean IoU over 30 of the 101 validation images: TP / (TP + FP + FN), void pixels left out."""
    confusion = np.zeros((12, 11), np.int64)
    with (
        zipfile.ZipFile(data_root / "segmentation" / "camvid" / "val.zip") as archive,
        dlcv.load("camvid-lraspp", engine="ort", outputs=["mask"]) as model,
    ):
        names = sorted(n for n in archive.namelist() if n.startswith("images/"))[::3][:30]
        for name, result in zip(names, model.stream(archive.read(n) for n in names), strict=True):
            assert isinstance(result, Segmentation)
            truth_name = name.replace("images/", "labels/").replace(".jpg", ".png")
            truth = np.asarray(Image.open(io.BytesIO(archive.read(truth_name))))
            np.add.at(confusion, (truth, result.mask), 1)
    confusion = confusion[:11]  # class 11 is void
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert iou.mean() >= 0.55
