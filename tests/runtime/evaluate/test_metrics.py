"""Top-1 and mean IoU are what their definitions say, and what training measured."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluate.evaluation import score
from dlcv.runtime.evaluate.labelled import LabelledImage, labelled_images
from dlcv.runtime.evaluate.metrics import confusion, mean_iou, top1
from dlcv.runtime.results import Segmentation
from dlcv.runtime.running.predictor import load


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def one_color(channel):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[..., channel] = 200
    return png(pixels)


def test_mean_iou_is_over_the_classes_that_occur():
    labels, predictions = np.array([0, 0, 1, 255]), np.array([0, 1, 1, 2])
    matrix = confusion(labels, predictions, classes=4)
    assert matrix.sum() == 3
    assert mean_iou(matrix) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert top1(matrix) == pytest.approx(2 / 3)
    assert mean_iou(np.zeros((4, 4), np.int64)) == 0


def test_a_classifier_is_scored(classify_bundle):
    labels = [0, 1, 2, 0]  # the last is wrong: a blue image
    images = [one_color(c) for c in (0, 1, 2, 2)]
    items = [
        LabelledImage(name=str(image[:9]), read=partial(bytes, image), label=label)
        for image, label in zip(images, labels, strict=True)
    ]
    with load(classify_bundle, engine="ort") as model:
        scored = score(model, items)
    assert (scored.metric, scored.value, scored.images) == ("top1", 0.75, 4)


def mask_item(mask, *, channel=1):
    return LabelledImage(name="a.png", read=lambda: one_color(channel), read_mask=lambda: png(mask))


def test_a_segmenter_is_scored_without_the_void(segment_bundle):
    mask = np.ones((16, 32), np.uint8)
    mask[:8] = 11
    with load(segment_bundle, engine="ort") as model:
        assert score(model, [mask_item(mask)]).value == 1
        mask[8:12] = 0  # labelled red, answered green
        assert score(model, [mask_item(mask)]).value == pytest.approx(0.25)


def test_what_cannot_be_scored_is_named(segment_bundle, classify_bundle):
    small = mask_item(np.ones((4, 4), np.uint8))
    unreadable = LabelledImage(name="b.png", read=lambda: b"nothing", label=0)
    with load(segment_bundle, engine="ort") as model:
        with pytest.raises(InputError, match=r"mask of a.png is \(4, 4\), its image \(16, 32\)"):
            score(model, [small])
        with pytest.raises(InputError, match="no labelled images"):
            score(model, [])
    with load(classify_bundle, engine="ort") as model:
        with pytest.raises(InputError, match=r"b.png: not an image"):
            score(model, [unreadable])
        with pytest.raises(InputError, match=r"label of a.png does not fit"):
            score(model, [small])


def test_camvid_scores_as_in_training(data_root):
    """Four images of the validation set give what torchmetrics gives on the same masks."""
    torch = pytest.importorskip("torch")
    from torchmetrics.classification import MulticlassJaccardIndex

    with load("camvid-lraspp", engine="ort", outputs=("mask",)) as model:
        names = [c.name for c in model.bundle.manifest.classes]
        items = labelled_images(
            data_root / "segmentation/camvid/val.zip", task="segment", classes=names
        )
        assert len(items) == 101
        ours = score(model, items[:4]).value
        metric = MulticlassJaccardIndex(len(names), average="macro", ignore_index=11)
        for item in items[:4]:
            assert item.read_mask is not None
            (result,) = model(item.read())
            assert isinstance(result, Segmentation)
            label = np.array(Image.open(io.BytesIO(item.read_mask())))
            metric.update(torch.tensor(result.mask), torch.tensor(label))
    assert ours == pytest.approx(float(metric.compute()), abs=1e-5)
