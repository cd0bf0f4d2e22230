"""Lower arithmetic may run where records, labels or agreement say so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import Frame
from dlcv.runtime.measure.lower import LowerGate, LowerOptions, agreement
from dlcv.runtime.results import Classification, Embedding, Segmentation

FRAME: dict[str, Any] = {
    "source": "a.jpg",
    "frame": Frame(size=(2, 2), box=(0, 0, 2, 2)),
    "engine": "fake",
}
CLASSES = tuple(ClassInfo(name=name) for name in ("red", "green", "blue"))


def classified(*values: float, threshold: float | None = None) -> Classification:
    return Classification(
        **FRAME, classes=CLASSES, probabilities=np.array(values, np.float32), threshold=threshold
    )


def segmented(*rows: list[int]) -> Segmentation:
    return Segmentation(**FRAME, classes=CLASSES, graph_mask=np.array(rows, np.uint8))


def embedded(*values: float) -> Embedding:
    return Embedding(**FRAME, vector=np.array(values, np.float32))


def test_classes_must_be_the_same_on_99_of_100_photos() -> None:
    red, blue = classified(0.9, 0.05, 0.05), classified(0.1, 0.1, 0.8)
    assert agreement([red] * 100, [red] * 99 + [blue]) == (
        True,
        "the same class on 99 of 100 photos",
    )
    assert agreement([red] * 100, [red] * 98 + [blue] * 2)[0] is False


def test_of_several_labels_all_must_be_the_same() -> None:
    both, one = classified(0.9, 0.6, 0, threshold=0.5), classified(0.9, 0.4, 0, threshold=0.5)
    assert agreement([both], [both])[0] is True
    assert agreement([both], [one])[0] is False


def test_masks_must_agree_on_995_of_1000_pixels() -> None:
    zeros = segmented(*[[0] * 20] * 10)
    one = segmented([1, *[0] * 19], *[[0] * 20] * 9)
    two = segmented([1, 1, *[0] * 18], *[[0] * 20] * 9)
    assert agreement([zeros], [one]) == (True, "99.50% of the pixels the same on 1 photos")
    assert agreement([zeros], [two])[0] is False


def test_every_embedding_must_point_the_same_way() -> None:
    assert agreement([embedded(1, 0)], [embedded(2, 0.01)])[0] is True
    assert agreement([embedded(1, 0)] * 2, [embedded(1, 0), embedded(1, 0.2)])[0] is False


@pytest.fixture
def photos(tmp_path: Path, new_photo: Callable[..., Path]) -> Path:
    for color in ("red", "green", "blue"):
        new_photo(f"{color}/1.png", color=color)
    return tmp_path


def test_labelled_images_decide_before_anything_else(classify_bundle: Path, photos: Path) -> None:
    options = LowerOptions(labelled=photos)
    gate = LowerGate(open_bundle(classify_bundle), options, engine="ort")
    assert gate.verdict("ort", "fp32", {}) == (True, "top1 1.0000 against 1.0000 on 3 images")


def test_the_user_s_own_photos_are_what_answers_must_agree_on(
    classify_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlcv.runtime.measure import lower

    monkeypatch.setattr(lower, "is_proved", lambda *_: False)
    gate = LowerGate(
        open_bundle(classify_bundle), LowerOptions(images=(str(photos),)), engine="ort"
    )
    assert gate.verdict("ort", "fp32", {}) == (True, "the same class on 3 of 3 photos")
    none = LowerGate(
        open_bundle(classify_bundle), LowerOptions(images=(str(photos / "no*"),)), engine="ort"
    )
    with pytest.raises(InputError, match="no image in"):
        none.verdict("ort", "fp32", {})
