"""Masks beside a bundle: the file says whether indices or colours code its classes; what is of none is counted."""

import io

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.runtime.errors import InputError
from dlcv.runtime.images.label_masks import decoded_mask, mask_coding_from_classes, stray_note

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)
CODING = mask_coding_from_classes(
    [ClassInfo(name="a", color=RED), ClassInfo(name="b", color=GREEN)]
)
COLORLESS = mask_coding_from_classes([ClassInfo(name="a"), ClassInfo(name="b")])


def png(pixels, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.array(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def too_large() -> bytes:
    """A BMP file that claims more pixels than are decoded, and fewer than Pillow refuses."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, format="BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = (10_000).to_bytes(4, "little") * 2
    return bytes(data)


def test_indices_of_no_class_are_ignored_and_counted():
    found = decoded_mask(png([[0, 1, 2], [2, 11, 255]]), CODING, name="m")
    assert found.labels.tolist() == [[0, 1, 255], [255, 255, 255]]
    assert found.strays == {2: 2, 11: 1}  # 255 never counts


@pytest.mark.parametrize("mode", [None, "RGBA"])
def test_colors_of_no_class_are_ignored_and_counted(mode):
    found = decoded_mask(png([[RED, GREEN], [BLACK, (9, 9, 9)]], mode), CODING, name="m")
    assert found.labels.tolist() == [[0, 1], [255, 255]]
    assert found.strays == {BLACK: 1, (9, 9, 9): 1}


def test_a_palette_is_for_the_eye_and_its_indices_are_the_classes():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([*GREEN, *RED])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    assert decoded_mask(buffer.getvalue(), CODING, name="m").labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("data", "coding", "words"),
    [
        (b"no png", CODING, "mask m is not a readable image"),
        (too_large(), CODING, "mask m is not a readable image: too large: 10000x10000 pixels"),
        (png([[RED]]), COLORLESS, "m has mode RGB; it must have one 8-bit .* no color each"),
        (png([[0]], "1"), CODING, "m has mode 1; it must have one 8-bit channel of class indices$"),
    ],
)
def test_a_mask_that_is_none_is_named(data, coding, words):
    with pytest.raises(InputError, match=words):
        decoded_mask(data, coding, name="m")


def test_classes_that_share_a_color_have_masks_of_indices():
    shared = mask_coding_from_classes([ClassInfo(name="a", color=RED)] * 2)
    assert decoded_mask(png([[1]]), shared, name="m").labels.tolist() == [[1]]


def test_the_note_says_how_many_of_what():
    few = decoded_mask(png([[BLACK, BLACK, (9, 9, 9)]]), CODING, name="m").strays
    assert stray_note(few) == (
        "3 mask pixels are of no class and are ignored: 2 of color (0, 0, 0), 1 of color (9, 9, 9)"
    )
    many = decoded_mask(png([[*range(2, 9), 2]]), CODING, name="m").strays
    assert stray_note(many).endswith("2 of label 2, 1 of label 3, 1 of label 4, 1 of label 5, "
                                     "1 of label 6, ...")  # fmt: skip
