"""What a bundle scores on labelled images, against scikit-learn's and torchmetrics' way of counting."""

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dlcv.cli.infer.app import app
from dlcv.runtime.accuracy import Counts
from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluation import Evaluation, evaluate
from dlcv.runtime.labelled import LabelledImage
from dlcv.runtime.predictor import load

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
    """IoU and pixel accuracy over the whole set on random masks; pixels of 255 do not count."""
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import multiclass_jaccard_index

    items = random_pairs()
    with load(segment_bundle, engine="ort") as model:
        record = evaluate(model, items).record()
        answers: list[Any] = model([item.read() for item in items])
    masks = [np.array(Image.open(io.BytesIO(i.read_mask()))) for i in items if i.read_mask]
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
            png(random.choice(np.array([0, 1, 2, 255], np.uint8), (16, 16))) for _ in range(6)
        ]
        images = [filled(number % 3) for number in range(6)]
        return [
            LabelledImage(
                name=f"{n}.png", read=partial(bytes, image), read_mask=partial(bytes, mask)
            )
            for n, (image, mask) in enumerate(zip(images, labels, strict=True))
        ]

    return make


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
