"""The bundles that ship with dlcv: small, whole, right on shipped photos and on real test sets."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dlcv
from dlcv.runtime import Classification, Segmentation, load_engine, open_bundle
from dlcv.runtime.bundle import BUILTIN, BUILTIN_FOLDER
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.images.samples import SAMPLES_FOLDER
from dlcv.runtime.measure.parity import replay_golden

VIT = "imagenette-vit"  # a package of its own
NAMES = [*sorted(path.name for path in BUILTIN_FOLDER.iterdir()), VIT]
MAX_WHEEL_BYTES = 60_000_000


def test_dlcv_and_the_vit_are_each_small_enough_for_a_wheel() -> None:
    shipped = [path for path in BUILTIN_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) < MAX_WHEEL_BYTES
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in open_bundle(VIT).path.rglob("*"):
            archive.write(path)
    assert packed.tell() < MAX_WHEEL_BYTES


def test_every_command_has_its_bundle() -> None:
    assert set(BUILTIN.values()) <= set(NAMES)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("name", NAMES)
def test_the_engine_gives_what_the_source_gave(
    name: str, engine: str, precision: Precision
) -> None:
    bundle = open_bundle(name)
    with load_engine(bundle, engine, precision=precision) as loaded:
        assert replay_golden(bundle, loaded).failures == ()


@pytest.mark.parametrize("name", NAMES)
def test_manifest_and_card_say_what_a_user_must_know(name: str) -> None:
    bundle = open_bundle(name)
    card = bundle.read("README.md").decode()
    assert "research" in bundle.manifest.licence
    assert re.search(r"^dlcv-export (bundle|import) ", card, re.MULTILINE)
    assert f"dlcv-export precision {name} --to int8 --for cpu --calibrate IMAGES" in card
    accuracy = bundle.variant("int8", target="cpu").accuracy
    assert accuracy is not None
    assert accuracy.baseline - accuracy.value <= 0.007
    everything = card + json.dumps(bundle.manifest.provenance.recipe)
    assert not re.search(r"[\s\"'(`]/[a-z]+/", everything)  # no path of the machine that made it


@pytest.mark.parametrize(
    ("photo", "labels"),
    [
        ("cat", {"tabby cat", "tiger cat", "Egyptian Mau"}),
        ("coffee", {"espresso"}),
        ("bird", {"kite (bird)", "bald eagle"}),
        ("street_taxis", {"taxicab"}),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_things_have_readable_names(photo: str, labels: set[str], precision: Precision) -> None:
    with dlcv.load("imagenet-lite0", engine="ort", precision=precision) as model:
        (result,) = model(SAMPLES_FOLDER / f"{photo}.jpg")
    assert isinstance(result, Classification)
    assert result.label.name in labels
    assert result.embedding is not None
    assert len(result.embedding) == 1280
    assert result.explanation is not None
    assert result.explanation.shape == (7, 7)


@pytest.mark.parametrize(
    ("photo", "name", "place", "share"),
    [
        ("cat", "cat", (150, 150), 0.7),
        ("dog", "dog", (300, 150), 0.15),
        ("bird", "bird", (240, 320), 0.15),
        ("car", "car", (140, 190), 0.3),
        ("astronaut", "person", (400, 250), 0.3),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_everyday_things_are_segmented(
    photo: str, name: str, place: tuple[int, int], share: float, precision: Precision
) -> None:
    with dlcv.load("voc-deeplab", engine="ort", precision=precision, outputs=["mask"]) as model:
        (result,) = model(SAMPLES_FOLDER / f"{photo}.jpg")
    assert isinstance(result, Segmentation)
    assert result.classes[result.mask[place]].name == name
    assert result.shares[name] > share


@pytest.mark.parametrize("photo", ["bird", "dog"])
def test_the_last_layer_looks_at_the_animal(photo: str) -> None:
    """Attention lies where the segmenter sees the animal, more often than chance has it."""
    path = SAMPLES_FOLDER / f"{photo}.jpg"
    with dlcv.load("voc-deeplab", engine="ort", outputs=["mask"]) as segmenter:
        (segmented,) = segmenter(path)
    with dlcv.load(VIT, engine="ort") as model:
        (result,) = model(path)
    assert isinstance(segmented, Segmentation)
    assert isinstance(result, Classification)
    assert result.attention is not None
    assert result.attention.shape == (6, 16, 16)
    animal = np.array([info.name == photo for info in segmented.classes])[segmented.mask]
    small = Image.fromarray(animal).convert("L").resize((16, 16), Image.Resampling.BOX)
    share = np.asarray(small, np.float32) / 255
    attention = result.attention.mean(axis=0)
    assert (attention * share).sum() / attention.sum() > 1.5 * share.mean()


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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_classifier_is_as_accurate_as_its_card_says(
    data_root: Path, precision: Precision
) -> None:
    """Top-1 on every third of the 300 sample photos of ImageNet, with the class's index in `labels.csv`."""
    folder = data_root / "photos"
    labels = {
        row["file"]: int(row["imagenet_index"])
        for row in csv.DictReader((folder / "labels.csv").read_text().splitlines())
    }
    with (
        zipfile.ZipFile(folder / "imagenet_sample.zip") as archive,
        dlcv.load(
            "imagenet-lite0", engine="ort", precision=precision, outputs=["probabilities"]
        ) as model,
    ):
        names = sorted(n for n in archive.namelist() if n.endswith((".jpg", ".JPEG")))[::3]
        results = list(model.stream(archive.read(name) for name in names))
    hits = [
        isinstance(result, Classification) and result.label.index == labels[name.rpartition("/")[2]]
        for name, result in zip(names, results, strict=True)
    ]
    assert len(hits) == 100
    assert np.mean(hits) >= 0.77


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_a_bird_is_segmented_as_the_card_says(
    data_root: Path, engine: str, precision: Precision
) -> None:
    folder = data_root / "segmentation" / "voc_examples"
    truth = np.asarray(Image.open(folder / "bird_segmentation_mask.png"))
    with dlcv.load("voc-deeplab", engine=engine, precision=precision, outputs=["mask"]) as model:
        (result,) = model(folder / "bird_segmentation.png")
    assert isinstance(result, Segmentation)
    found, wanted = result.mask == 3, truth == 3
    known = truth != 255
    assert (found & wanted).sum() / ((found | wanted) & known).sum() >= 0.89


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
