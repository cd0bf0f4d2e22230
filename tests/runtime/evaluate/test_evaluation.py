"""What a bundle scores on labelled images, against scikit-learn's and torchmetrics' way of counting."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dlcv.cli.infer.app import app
from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.report import text_from_bundle
from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import BundleError, InputError, OutputError
from dlcv.runtime.evaluate.evaluation import Evaluation, evaluate, recorded
from dlcv.runtime.evaluate.labelled import LabelledImage, labelled_images
from dlcv.runtime.evaluate.metrics import Counts
from dlcv.runtime.running.predictor import Predictor, load

NAMES = ("red", "green", "blue")


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def filled(channel: int, *, side: int = 16) -> bytes:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., channel] = 200
    return png(pixels)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three right images, a blue one in the folder of red ones, and one that is no image."""
    for name, file, data in (
        *((name, "a.png", filled(channel)) for channel, name in enumerate(NAMES)),
        ("red", "blue.png", filled(2)),
        ("red", "damaged.png", b"nothing"),
    ):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name / file).write_bytes(data)
    return tmp_path / "data"


def test_an_image_that_cannot_be_read_is_one_line_and_the_rest_is_scored(
    classify_bundle: Path, folders: Path, tmp_path: Path
) -> None:
    table = tmp_path / "confusion.csv"
    ran = infer(
        "evaluate", classify_bundle, folders, "-e", "ort", "-f", "json", "--confusion", table
    )
    assert ran.exit_code == 3, ran.stderr
    assert ran.stderr.count("damaged.png") == 1
    record = json.loads(ran.stdout)
    assert (record["images"], record["accuracy"]) == (4, 0.75)
    assert record["recall"] == {"red": 0.5, "green": 1.0, "blue": 1.0}
    assert record["ran"]["engine"] == "ort"
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[:2] == [["label", *NAMES], ["red", "1", "0", "1"]]


def test_figures_are_printed_for_people_too(classify_bundle: Path, folders: Path) -> None:
    (folders / "red" / "damaged.png").unlink()
    ran = infer("evaluate", classify_bundle, folders, "-e", "ort")
    assert ran.exit_code == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["accuracy", "0.75"] in lines
    assert lines[-1][:2] == ["ran", "ort"]


def test_data_of_which_nothing_can_be_read_is_an_error(classify_bundle: Path) -> None:
    damaged = LabelledImage(name="a.png", read=lambda: b"nothing", label=0)
    with load(classify_bundle, engine="ort") as model:
        with pytest.raises(InputError, match=r"no image could be scored; a.png: not an image"):
            evaluate(model, [damaged])
        with pytest.raises(InputError, match="there are none"):
            evaluate(model, [])


def test_a_mask_of_another_size_is_an_error_that_names_it(segment_bundle: Path) -> None:
    item = LabelledImage(
        name="a.png",
        read=lambda: filled(1),
        mask="labels/a.png",
        read_mask=lambda: png(np.ones((4, 4), np.uint8)),
    )
    with (
        load(segment_bundle, engine="ort") as model,
        pytest.raises(InputError, match=r"mask of a.png is \(4, 4\), its image \(16, 16\)"),
    ):
        evaluate(model, [item])


def test_masks_score_as_torchmetrics_counts_them(
    segment_bundle: Path, random_pairs: Callable[[], list[LabelledImage]]
) -> None:
    """IoU and pixel accuracy over the whole set on random masks; pixels of 255 and of no class do not count."""
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import multiclass_jaccard_index

    items = random_pairs()
    with load(segment_bundle, engine="ort") as model:
        record = evaluate(model, items).record()
        answers: list[Any] = model([item.read() for item in items])
    masks = [np.array(Image.open(io.BytesIO(i.read_mask()))) for i in items if i.read_mask]
    masks = [np.where(mask == 11, 255, mask) for mask in masks]
    predicted, labels = (
        torch.from_numpy(np.stack(arrays).astype(np.int64))
        for arrays in ([answer.mask for answer in answers], masks)
    )
    expected = multiclass_jaccard_index(predicted, labels, 3, average="none", ignore_index=255)
    assert list(record["iou"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert record["mean_iou"] == pytest.approx(float(expected.mean()), abs=1e-6)
    kept = labels != 255
    assert record["accuracy"] == pytest.approx(float((predicted == labels)[kept].double().mean()))


@pytest.fixture
def random_pairs() -> Callable[[], list[LabelledImage]]:
    def make() -> list[LabelledImage]:
        random = np.random.default_rng(0)
        labels = [
            png(random.choice(np.array([0, 1, 2, 11, 255], np.uint8), (16, 16))) for _ in range(6)
        ]
        images = [filled(number % 3) for number in range(6)]
        return [
            LabelledImage(
                name=f"{n}.png", read=partial(bytes, image), read_mask=partial(bytes, mask)
            )
            for n, (image, mask) in enumerate(zip(images, labels, strict=True))
        ]

    return make


def mask_item(mask: Any, *, name: str = "a.png") -> LabelledImage:
    return LabelledImage(
        name=name, read=lambda: filled(1), mask=f"labels/{name}", read_mask=lambda: png(mask)
    )


def test_masks_by_color_score_as_the_same_masks_by_index(segment_bundle: Path) -> None:
    """Black is no class of the bundle, as 11 is none: neither counts, and both are told once."""
    colors = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)], np.uint8)
    masks = np.random.default_rng(1).integers(0, 4, (3, 16, 16))
    by_index = [mask_item(np.where(mask == 3, 11, mask).astype(np.uint8)) for mask in masks]
    with load(segment_bundle, engine="ort") as model:
        found = evaluate(model, [mask_item(colors[mask]) for mask in masks])
        same = evaluate(model, by_index)
    assert found.matrix.tolist() == same.matrix.tolist()
    left_out = int((masks == 3).sum())
    start = f"{left_out} mask pixels are of no class and are ignored: {left_out} of"
    assert found.notes == (f"{start} color (0, 0, 0)",)
    assert same.notes == (f"{start} label 11",)
    assert found.matrix.sum() == masks.size - left_out


def test_masks_without_any_pixel_of_a_class_are_an_error(segment_bundle: Path) -> None:
    with (
        load(segment_bundle, engine="ort") as model,
        pytest.raises(InputError, match=r"one of the 3 classes; 256 mask .* 256 of color \(1, 1"),
    ):
        evaluate(model, [mask_item(np.ones((16, 16, 3), np.uint8))])


def test_a_label_beyond_the_bundle_s_classes_is_named(classify_bundle: Path) -> None:
    item = LabelledImage(name="a.png", read=lambda: filled(0), label=3)
    with (
        load(classify_bundle, engine="ort") as model,
        pytest.raises(InputError, match=r"a.png has label 3; the bundle has 3 classes, 0..2"),
    ):
        evaluate(model, [item])


def test_class_255_of_many_counts(classify_bundle: Path) -> None:
    """255 is the ignored label of masks, and a class like others where images have classes."""
    bundle = with_classes(open_bundle(classify_bundle), 300)

    def answer(feeds: Any) -> dict[str, Any]:
        shapes = {spec.name: (1, *map(int, spec.shape[1:])) for spec in bundle.graph().outputs}
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        arrays["probabilities"][0, 255] = 1
        return arrays

    item = LabelledImage(name="a.png", read=lambda: filled(0), label=255)
    with Predictor(bundle, FakeEngine(bundle.graph(), answer)) as model:
        found = evaluate(model, [item])
    assert (found.score.value, found.top5, found.matrix[255, 255]) == (1, 1, 1)


def with_classes(bundle: Bundle, count: int) -> Bundle:
    """Return a classifier as one of so many classes, as no file says."""
    replace, graph = msgspec.structs.replace, bundle.graph()
    outputs = tuple(
        replace(spec, shape=("batch", count)) if spec.name == "probabilities" else spec
        for spec in graph.outputs
    )
    manifest = replace(
        bundle.manifest,
        classes=tuple(ClassInfo(name=str(number)) for number in range(count)),
        graphs={"model": replace(graph, outputs=outputs)},
    )
    return Bundle(path=bundle.path, manifest=manifest)


def test_a_class_that_does_not_occur_has_no_figure() -> None:
    matrix: Counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]], np.int64)
    record = Evaluation(
        class_names=NAMES,
        matrix=matrix,
        top5=None,
        images=4,
        refused=(),
        seconds=2.0,
        ran={"task": "segment"},
    ).record()
    assert record["iou"] == {"red": 0.75, "green": 0.0, "blue": None}
    assert (record["mean_iou"], record["images_per_second"]) == (0.375, 2.0)


@pytest.fixture
def scored(new_bundle: Callable[..., Path], folders: Path) -> tuple[Bundle, Evaluation]:
    """A bundle of its own and what it scores on the folders: 0.75 on four images."""
    bundle = open_bundle(new_bundle())
    with load(bundle, engine="ort") as model:
        items = labelled_images(folders, task="classify", classes=NAMES)
        return bundle, evaluate(model, items)


def test_a_score_is_recorded_and_nothing_else_changes(scored: tuple[Bundle, Evaluation]) -> None:
    bundle, evaluation = scored
    before = written(bundle.path)
    after = recorded(bundle, evaluation, data="four images")
    opened = open_bundle(bundle.path)
    assert opened.manifest == after.manifest
    (deployed,) = opened.variant("fp32").deployed
    assert (deployed.metric, deployed.value, deployed.images) == ("top1", 0.75, 4)
    assert (deployed.engine, deployed.precision) == ("ort", "fp32")
    assert "top1 0.7500 on 4 images of four images, on ort " in text_from_bundle(opened)
    assert opened.sha256 == bundle.sha256  # a tuning of it still holds
    changed = written(bundle.path).items() ^ before.items()
    assert {path.name for path, _ in changed} == {"manifest.json"}


def test_a_model_card_shows_the_score(scored: tuple[Bundle, Evaluation]) -> None:
    bundle, evaluation = scored
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files["README.md"] = b"# toy\n\n## Metrics\n\nNone.\n\n## Limits\n\n- Some.\n"
    carded = save_bundle(bundle.path, bundle.manifest, files=files, overwrite=True)
    ran = {**evaluation.ran, "bundle_sha256": carded.sha256}
    recorded(carded, replace(evaluation, ran=ran), data="four images")
    opened = open_bundle(bundle.path)  # which verifies every file
    card = opened.read("README.md").decode()
    assert "| top1, fp32 graph | 0.75 | 4 images of four images, on ort " in card
    assert "None." not in card
    assert card.endswith("\n\n## Limits\n\n- Some.\n")
    assert opened.sha256 == carded.sha256


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in files.items()}


def test_a_second_record_of_the_same_engine_and_data_replaces_the_first(
    scored: tuple[Bundle, Evaluation],
) -> None:
    bundle, evaluation = scored
    other = replace(evaluation, ran={**evaluation.ran, "engine": "openvino"})
    for found, data in ((evaluation, "a"), (evaluation, "b"), (other, "a"), (evaluation, "a")):
        recorded(bundle, found, data=data)
    deployed = open_bundle(bundle.path).variant().deployed
    assert [(d.data, d.engine) for d in deployed] == [("b", "ort"), ("a", "openvino"), ("a", "ort")]


def test_a_score_belongs_to_the_graph_that_ran_whatever_it_computed_in(
    scored: tuple[Bundle, Evaluation],
) -> None:
    """OpenVINO may compute an fp32 graph in bf16."""
    bundle, evaluation = scored
    ran = {**evaluation.ran, "engine": "openvino", "precision": "bf16"}
    after = recorded(bundle, replace(evaluation, ran=ran), data="a")
    assert after.variant("fp32").deployed[0].precision == "bf16"


def test_a_score_of_another_bundle_is_not_recorded(scored: tuple[Bundle, Evaluation]) -> None:
    bundle, evaluation = scored
    ran = {**evaluation.ran, "bundle_sha256": "0" * 64}
    with pytest.raises(BundleError, match="is not the bundle that was evaluated; evaluate it"):
        recorded(bundle, replace(evaluation, ran=ran), data="a")


def test_a_bundle_that_ships_with_dlcv_is_not_written(scored: tuple[Bundle, Evaluation]) -> None:
    with pytest.raises(OutputError, match=r"cifar10-vit ships with dlcv and stays .* copy .*"):
        recorded(open_bundle("cifar10-vit"), scored[1], data="a")
