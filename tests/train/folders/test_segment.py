"""Folders of images and masks become recipes, or one sentence says what is amiss."""

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.errors import RecipeError
from dlcv.train.data import listed
from dlcv.train.folders import RunOptions, recipe_for_folder
from dlcv.train.folders.segment import segment_data

WISHES = RunOptions(task="segment", network="lraspp_mobilenet_v2", settings={"inter_channels": 8})


def test_masks_without_val_give_classes_size_and_a_fifth_is_held_out(masked, read, tmp_path):
    masked(tmp_path, "abcdef", values=(0, 2, 255, 1), size=(100, 140))
    found = recipe_for_folder(tmp_path, WISHES)
    recipe = read(found.text)
    assert recipe.class_names == ("class 0", "class 1", "class 2")
    assert len({c.color for c in recipe.classes}) == 3
    assert (recipe.preprocessing.size, recipe.preprocessing.multiple) == ((96, 128), 32)
    assert [len(listed(recipe, tmp_path, split=s)) for s in ("train", "test")] == [5, 1]
    assert found.notes[0].startswith("no folder val: 1 of 6 images, 20% of all and always the same")


@pytest.mark.parametrize(("masks", "end"), [("masks", ""), ("labels", ""), ("masks", "_mask")])
def test_splits_masks_folders_and_names_are_found(masks, end, masked, read, tmp_path):
    masked(tmp_path / "train", "ab", masks=masks, end=end)
    masked(tmp_path / "val", "c", masks=masks, end=end)
    (tmp_path / "classes.txt").write_text("ground\nroof\nwater\n")
    found = recipe_for_folder(tmp_path, WISHES)
    recipe = read(found.text)
    assert recipe.class_names == ("ground", "roof", "water")
    assert found.notes == ("no training mask holds class 2 (water)",)
    (item,) = listed(recipe, tmp_path, split="validation")
    assert (item.name, item.mask) == ("images/c.jpg", f"{masks}/c{end}.png")


def test_two_classes_without_names_are_background_and_foreground(masked, tmp_path):
    classes = segment_data(masked(tmp_path, "ab"), names=None).classes
    assert [c.name for c in classes] == ["background", "foreground"]


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ((0, 255), None, "class 0 only and 255, which is ignored; write 1 for the foreground"),
        ((1,), None, "masks hold class 1 only; a segmenter needs two or more classes"),
        ((0, 128), None, "masks hold the values 0, 128; number the classes 0, 1, "),
        ((0, 4), ("a", "b"), r"masks hold class 4, and 2 class names are given, for 0\.\.1; name"),
    ],
)
def test_masks_of_other_values_are_one_sentence(values, names, message, masked, tmp_path):
    masked(tmp_path, "ab", values=values)
    with pytest.raises(RecipeError, match=message) as raised:
        segment_data(tmp_path, names=names)
    assert "\n" not in str(raised.value)


def test_a_class_that_is_only_in_val_is_named(masked, tmp_path):
    masked(tmp_path / "train", "ab")
    masked(tmp_path / "val", "c", values=(0, 1, 2))
    with pytest.raises(RecipeError, match="class 2 is in masks for validation and in none for"):
        segment_data(tmp_path, names=None)


def test_folders_names_and_kinds_of_masks_that_do_not_fit_are_named(masked, tmp_path):
    masked(tmp_path, "ab")
    (tmp_path / "masks/a.png").rename(tmp_path / "masks/z.png")
    with pytest.raises(RecipeError, match=r"images/a\.jpg has no mask masks/a\.png; an image and"):
        segment_data(tmp_path, names=None)
    (tmp_path / "masks/z.png").unlink()
    Image.new("RGB", (64, 64)).save(tmp_path / "masks/a.png")
    with pytest.raises(RecipeError, match=r"masks/a\.png has mode RGB.*; save masks as PNG files"):
        segment_data(tmp_path, names=None)
    (tmp_path / "masks").rename(tmp_path / "paintings")
    with pytest.raises(RecipeError, match=r"has no folder masks; expected FOLDER/train/images"):
        segment_data(tmp_path, names=None)


def test_images_and_no_images_at_all(masked, tmp_path):
    masked(tmp_path, "")
    with pytest.raises(RecipeError, match=r"images holds no images; expected"):
        segment_data(tmp_path, names=None)
    masked(tmp_path, "a")
    with pytest.raises(RecipeError, match="has one image only, and some are needed for validation"):
        segment_data(tmp_path, names=None)


def test_a_classifier_for_task_segment_is_one_sentence(masked, tmp_path):
    masked(tmp_path, "ab")
    options = RunOptions(network="timm:test_resnet", task="segment")
    with pytest.raises(RecipeError, match=r"for task segment a network gives \(batch, classes, H"):
        recipe_for_folder(tmp_path, options)


def test_the_usual_size_is_taken_and_made_smaller(masked, read, tmp_path):
    masked(tmp_path, "abc", size=(64, 64))
    big = np.zeros((700, 1400), np.uint8)
    big[:, 700:] = 1
    for name in "defg":
        Image.fromarray(big).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(big).save(tmp_path / "masks" / f"{name}.png")
    recipe = read(recipe_for_folder(tmp_path, WISHES).text)
    assert recipe.preprocessing.size == (256, 512)
    assert recipe.augment.crop == 256
