"""A checkpoint scored by training and its bundle scored by the runtime give the same figures on a whole set.

One answer of a thousand may differ: PyTorch and ONNX Runtime sum in different orders, and two classes may tie.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from torch import nn

from dlcv.export.bundle import export_bundle
from dlcv.export.sources import ExportSource
from dlcv.runtime.evaluate.evaluation import Evaluation
from dlcv.runtime.evaluate.evaluation import evaluate as evaluate_bundle
from dlcv.runtime.evaluate.labelled import labelled_images
from dlcv.runtime.running.predictor import load
from dlcv.train.checkpoint import Checkpoint
from dlcv.train.data import load_dataset
from dlcv.train.evaluate import evaluate as evaluate_checkpoint
from dlcv.train.figures.confusion import confusion_on
from dlcv.train.recipe import Recipe

TIES = 0.001  # share of answers that may differ
CLASSES = 8
COLORS = np.array(  # of five classes, of what is unknown, and of nothing
    [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 0, 0)],
    np.uint8,
)
SATELLITE = ("{}_sat.png", "{}_mask.png")

COMMON = {
    "description": "A toy for tests.",
    "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "model": {"name": "small_cnn"},  # in its place stands a tiny network
    "optimizer": {"lr": 0.1},
    "augment": {"crop": 32},
    "epochs": 1,
    "batch": 8,
}
CLASSIFY = COMMON | {
    "name": "toy-folders",
    "task": "classify",
    "classes": [{"name": f"class{number}"} for number in range(CLASSES)],
    "preprocessing": {"resize": "center_crop", "size": [32, 32], "crop_fraction": 0.9},
    "data": {"name": "folders", "root": ".", "train": "photos", "test": "photos"},
}
SEGMENT = COMMON | {
    "name": "toy-land-cover",
    "task": "segment",
    "classes": [
        {"name": name, "color": color}
        for name, color in zip("abcde", COLORS[:5].tolist(), strict=True)
    ],
    "preprocessing": {"resize": "longest_side", "size": [64, 64], "multiple": 32},
    "data": {
        "name": "pairs", "root": ".", "train": "land", "test": "land", "mask_coding": "rgb",
        "images": SATELLITE[0], "masks": SATELLITE[1], "ignore_colors": [[0, 0, 0]],
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What both count: figures by name, and confusion matrices with rows = labels."""

    checkpoint: dict[str, Any]
    checkpoint_matrix: np.ndarray[Any, Any]
    bundle: Evaluation

    def answers_that_differ(self) -> float:
        """Return the share of answers that only one of the two gave."""
        moved = np.abs(self.checkpoint_matrix - self.bundle.matrix).sum() / 2
        return float(moved / self.bundle.matrix.sum())


def write_photos(folder: Path) -> None:
    """Write noisy photos of other sizes than the network's, six a class of its own colour."""
    random = np.random.default_rng(0)
    for number in range(CLASSES):
        for photo in range(6):
            color = [130 * (number >> bit & 1) for bit in range(3)]
            pixels = random.integers(0, 120, (40, 48, 3)) + color
            path = folder / "photos" / f"class{number}" / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_land(folder: Path) -> None:
    """Write photos in four fields with masks by colour; a field may be unknown, and red is no class's colour."""
    random = np.random.default_rng(0)
    (folder / "land").mkdir()
    for number in range(8):
        fields = random.integers(0, 6, (2, 2))
        labels = np.kron(fields, np.ones((32, 32), int))
        photo = random.integers(0, 80, (64, 64, 3)) + 30 * labels[..., None]
        labels[0, :3] = 6
        for pattern, pixels in zip(SATELLITE, (photo, COLORS[labels]), strict=True):
            path = folder / "land" / pattern.format(f"{number:04d}")
            Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Scores]:
    """Scores a network as a checkpoint of a recipe and as the bundle exported from it."""

    def make(
        source: ExportSource, settings: dict[str, Any], write: Callable[[Path], None]
    ) -> Scores:
        folder = tmp_path_factory.mktemp("scores")
        write(folder)
        recipe = msgspec.convert(settings, Recipe)
        checkpoint = Checkpoint(path=folder, model=source.model, recipe=recipe, metrics={})
        source = replace(
            source,
            classes=recipe.classes,
            preprocessing=recipe.preprocessing,
            mean=recipe.normalization.mean,
            std=recipe.normalization.std,
        )
        bundle = export_bundle(source, folder / "bundle")
        test = load_dataset(recipe, folder, split="test")
        assert recipe.data.test is not None
        items = labelled_images(
            folder / recipe.data.test,
            task=recipe.task,
            classes=recipe.class_names,
            patterns=SATELLITE,
        )
        with load(bundle, engine="ort") as model:
            return Scores(
                checkpoint=evaluate_checkpoint(checkpoint, folder),
                checkpoint_matrix=confusion_on(checkpoint, test).numpy(),
                bundle=evaluate_bundle(model, items),
            )

    return make


def test_a_classifier_scores_alike_top_five_included(
    build: Callable[..., Any],
    make_source: Callable[..., ExportSource],
    scores: Callable[..., Scores],
) -> None:
    model = build("cnn")
    model[-1] = nn.Linear(model[-1].in_features, CLASSES)
    nn.init.normal_(model[-1].weight, std=3)  # or it would always answer the same
    found = scores(make_source("cnn", model=model), CLASSIFY, write_photos)
    bundle, checkpoint = found.bundle.record(), found.checkpoint
    assert found.answers_that_differ() <= TIES
    assert (found.bundle.matrix.sum(axis=0) > 0).sum() > 2  # it does not always answer the same
    assert 0 < checkpoint["accuracy"] <= checkpoint["top5"] < 1
    for name in ("accuracy", "top5", "recall", "images"):
        assert bundle[name] == pytest.approx(checkpoint[name], abs=TIES)


def test_a_segmenter_scores_alike_on_masks_coded_by_color(
    make_source: Callable[..., ExportSource], scores: Callable[..., Scores]
) -> None:
    """The images have the network's size: at another one, training scores at that and a bundle at the images'."""
    found = scores(make_source("segmenter"), SEGMENT, write_land)
    bundle, checkpoint = found.bundle.record(), found.checkpoint
    assert found.answers_that_differ() <= TIES
    assert (found.bundle.matrix.sum(axis=0) > 0).sum() > 2
    for name in ("mean_iou", "accuracy", "iou", "images"):
        assert bundle[name] == pytest.approx(checkpoint[name], abs=TIES)
    assert "24 of color (255, 0, 0)" in found.bundle.notes[0]
