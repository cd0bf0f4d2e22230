"""Results check what they hold and draw pictures whose pixels mean what they should."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import AnswerError
from dlcv.runtime.images import Frame
from dlcv.runtime.results import Classification, Embedding, Segmentation
from dlcv.runtime.results.draw import draw_heat, draw_segmentation, heat_colors, palette

FRAME = Frame(size=(30, 40), box=(0, 0, 40, 30))
CLASSES = (ClassInfo(name="sky", color=(1, 2, 3)), ClassInfo(name="sea", color=(200, 0, 0)))
NewPhoto = Callable[..., Path]


def segmentation(mask: Any, **fields: Any) -> Segmentation:
    defaults: dict[str, Any] = {
        "source": "x.png",
        "frame": FRAME,
        "engine": "e",
        "classes": CLASSES,
    }
    return Segmentation(**(defaults | {"graph_mask": mask} | fields))


def classification(probabilities: Any, **fields: Any) -> Classification:
    defaults: dict[str, Any] = {
        "source": "x.png",
        "frame": FRAME,
        "engine": "e",
        "classes": CLASSES,
    }
    return Classification(**(defaults | {"probabilities": probabilities} | fields))


def test_arrays_of_another_dtype_or_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="graph_mask must be uint8 with 2 axes, not int64"):
        segmentation(np.zeros((2, 2), np.int64))
    with pytest.raises(AnswerError, match="a mask with class 2, where the bundle names 2 classes"):
        segmentation(np.full((2, 2), 2, np.uint8))
    with pytest.raises(ValueError, match="3 probabilities, 2 classes"):
        classification(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="explanation must be float32 with 2 axes"):
        classification(np.ones(2, np.float32), explanation=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="vector must be float32 with 1 axes"):
        Embedding(source="x", frame=FRAME, engine="e", vector=np.ones((1, 2), np.float32))


def test_top_is_sorted_and_ties_keep_the_classes_order() -> None:
    result = classification(np.array([0.5, 0.5], np.float32))
    assert [label.name for label in result.top()] == ["sky", "sea"]
    assert result.label.probability == 0.5


def test_a_palette_gives_classes_without_a_colour_one_of_their_own() -> None:
    colors = palette(tuple(ClassInfo(name=str(i)) for i in range(20)))
    assert len({tuple(color) for color in colors[:20].tolist()}) == 20
    assert palette(CLASSES)[:2].tolist() == [[1, 2, 3], [200, 0, 0]]


def test_an_overlay_tints_the_photo_and_names_the_classes(new_photo: NewPhoto) -> None:
    photo = new_photo("grey.png", color=(100, 100, 100), size=(400, 300))
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 20:] = 1
    frame = Frame(size=(300, 400), box=(0, 0, 400, 300))
    overlay = np.asarray(segmentation(mask, source=photo, frame=frame).overlay()).astype(int)
    assert overlay.shape[0] == 300
    assert overlay.shape[1] > 450  # photo and legend
    assert overlay[150, 300, 0] > overlay[150, 300, 1] + 80  # reddish where "sea" is
    assert abs(overlay[150, 100] - [50, 51, 51]).max() <= 3  # half photo, half colour of "sky"
    legend = overlay[:, 400:]
    assert (legend == [200, 0, 0]).all(axis=2).any()
    assert (legend == [1, 2, 3]).all(axis=2).any()


def test_an_overlay_leaves_the_background_as_it_is(new_photo: NewPhoto) -> None:
    photo = Image.open(new_photo("grey.png", color=(100, 100, 100), size=(400, 300)))
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 20:] = 1
    classes = (ClassInfo(name="background", color=(0, 0, 0)), ClassInfo(name="cat"))
    shares = {"background": 0.5, "cat": 0.5}
    overlay = np.asarray(draw_segmentation(photo, mask, classes=classes, shares=shares))
    assert (overlay[150, 100] == [100, 100, 100]).all()
    assert (overlay[150, 300] != [100, 100, 100]).any()


def test_a_heat_map_is_drawn_over_the_region_that_the_graph_saw() -> None:
    photo = Image.new("RGB", (200, 100), (120, 120, 120))
    values = np.zeros((4, 4), np.float32)
    values[:, 2:] = 1
    drawn = np.asarray(draw_heat(photo, values, box=(100, 0, 300, 200), size=(200, 400))).astype(
        int
    )
    assert drawn.shape == (100, 200, 3)
    assert (drawn[50, 10] == [42, 42, 42]).all()  # outside: dimmed
    assert drawn[50, 140].sum() > drawn[50, 60].sum() + 150  # the hot half is bright


def test_heat_runs_from_black_to_pale_yellow() -> None:
    low, high = heat_colors(np.array([[0.0, 1.0]], np.float32))[0].tolist()
    assert low == [0, 0, 4]
    assert high == [252, 255, 164]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2000, 3), (5, 5)])
def test_pictures_can_be_drawn_for_photos_of_any_shape(
    new_photo: NewPhoto, size: tuple[int, int]
) -> None:
    photo = new_photo("odd.png", size=size)
    frame = Frame(size=(size[1], size[0]), box=(0, 0, *size))
    mask = segmentation(np.zeros((8, 8), np.uint8), source=photo, frame=frame)
    assert max(mask.overlay().size) < 3000
    maps = {"explanation": np.eye(4, dtype=np.float32), "attention": np.ones((2, 4, 4), np.float32)}
    result = classification(np.array([1, 0], np.float32), source=photo, frame=frame, **maps)
    assert max(result.overlay().size) < 4000


def test_without_an_explanation_the_classes_stand_beside_the_photo(new_photo: NewPhoto) -> None:
    photo = new_photo("a.png", size=(400, 360))
    picture = classification(np.array([1, 0], np.float32), source=photo).overlay()
    assert (picture.height, picture.width > 400) == (360, True)
    legend = np.asarray(picture)[:, 400:]
    assert (legend == (207, 68, 70)).all(axis=2).any()  # the mark of the likeliest class
