"""Masks coded by colour, naming patterns, and what the masks of real data hold."""

import io

import msgspec
import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.images.label_masks import MaskCoding, decoded_mask
from dlcv.train.data import load_dataset
from dlcv.train.data.check import summary_lines
from dlcv.train.recipe import Recipe, load_recipe
from dlcv.train.settings import DataConfig

RGB = {
    "name": "pairs", "root": ".", "train": "train", "test": "train", "images": "{}_sat.jpg",
    "masks": "{}_mask.png", "mask_coding": "rgb", "ignore_colors": [[0, 0, 9]],
}  # fmt: skip


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_pair(folder, name: str, mask) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (48, 40), (9, 9, 9)).save(folder / f"{name}_sat.jpg")
    (folder / f"{name}_mask.png").write_bytes(png(mask))


def test_colors_become_classes_and_stray_ones_are_counted_and_ignored(new_recipe, tmp_path):
    mask = np.zeros((40, 48, 3), np.uint8)  # class 0
    mask[10:20] = 2
    mask[20:30] = (0, 0, 9)
    mask[39, :5] = (255, 0, 0)
    write_pair(tmp_path / "train", "0001", mask)
    recipe = new_recipe("segment", data=RGB)
    dataset = load_dataset(recipe, tmp_path, split="train")
    assert dataset.names == ("0001_sat.jpg",)
    assert dataset.labels[0].unique().tolist() == [0, 2, 255]
    assert (dataset.labels[0, 20:30] == 255).all()
    assert (dataset.labels[0, 39, :6] == 255).tolist() == [True] * 5 + [False]
    assert dataset.notes == (
        "5 mask pixels are of no class and are ignored: 5 of color (255, 0, 0)",
    )
    lines = summary_lines(recipe, train=dataset, validation=dataset)
    assert sum(dataset.notes[0] in line for line in lines) == 2  # once a split


@pytest.mark.parametrize(
    ("name", "message"),
    [("0002_sat.jpg", "0002_sat.jpg has no mask 0002_mask.png"),
     ("0002_mask.png", "0002_mask.png has no image 0002_sat.jpg")],
)  # fmt: skip
def test_half_a_pair_of_a_pattern_is_named(new_recipe, tmp_path, name, message):
    write_pair(tmp_path / "train", "0001", np.zeros((40, 48, 3)))
    (tmp_path / "train" / name).write_bytes(b"")
    with pytest.raises(RecipeError, match=message):
        load_dataset(new_recipe("segment", data=RGB), tmp_path, split="train")


def test_a_color_of_two_meanings_is_refused():
    with pytest.raises(InputError, match=r"color \(0, 0, 0\) stands for two classes, or for one"):
        MaskCoding(classes=1, colors=((0, 0, 0),), ignore_colors=((0, 0, 0),))


@pytest.mark.parametrize(
    ("data", "message"),
    [(png(np.zeros((2, 2, 3))), "mask m has mode RGB; it must have one 8-bit channel"),
     (b"GIF89a", "mask m is not a readable image")],
)  # fmt: skip
def test_an_index_mask_that_is_none_is_named(data, message):
    with pytest.raises(InputError, match=message):
        decoded_mask(data, MaskCoding(classes=3), name="m")


def test_colors_agree_with_a_table_of_all_of_them():
    random = np.random.default_rng(0)
    palette = random.integers(0, 2, (12, 3)) * 255
    colors = [tuple(c) for c in np.unique(palette, axis=0).tolist()]
    pixels = random.integers(0, 2, (50, 60, 3)) * 255
    coding = MaskCoding(classes=len(colors), colors=tuple(colors))
    found = decoded_mask(png(pixels), coding, name="m")
    table = {color: label for label, color in enumerate(colors)}
    expected = [[table.get(tuple(pixel), 255) for pixel in row] for row in pixels.tolist()]
    assert found.labels.tolist() == expected
    assert found.strays.total() == sum(row.count(255) for row in expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": "a.jpg"}, r"data.images must have one \{\} for the name"),
        ({"mask_coding": "rgb", "ignore_labels": [3]}, "mask_coding rgb goes with data.ignore_colors"),
        ({"ignore_colors": [[0, 0, 0]]}, "mask_coding index goes with data.ignore_labels"),
        ({"train": "../x"}, "data.train must be a path inside the data root"),
        ({"labels": ["a", "a"]}, "data.labels must be different"),
    ],
)  # fmt: skip
def test_settings_of_data_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"name": "pairs", "root": "."} | settings, DataConfig)


def test_deepglobe_has_its_images_classes_and_stray_pixels(data_root):
    recipe = load_recipe("deepglobe-fcn4s-mobilenet", Recipe)
    dataset = load_dataset(recipe, data_root, split="train")
    assert len(dataset) == 140
    assert dataset.labels.unique().tolist() == [0, 1, 2, 3, 4, 5, 255]
    assert any("2 of color (255, 0, 0)" in note for note in dataset.notes)
