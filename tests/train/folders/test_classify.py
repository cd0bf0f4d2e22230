"""Folders of images by class become recipes, or one sentence says what is amiss."""

import re

import pytest
from PIL import Image

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.data import listed
from dlcv.train.folders import RunOptions, recipe_for_folder
from dlcv.train.folders.classify import classify_data


def options(**changes):
    usual = {"network": "small_cnn", "task": "classify", "size": (32, 32)}
    return RunOptions(**usual | changes)


def test_without_val_a_fifth_of_each_class_is_held_out_and_it_is_said(photos, read, tmp_path):
    folder = photos(tmp_path / "pets", {"cat": 10, "dog": 5, "eel": 1})
    found = recipe_for_folder(folder, options())
    recipe = read(found.text)
    assert recipe.class_names == ("cat", "dog", "eel")
    parts = {
        split: [item.name for item in listed(recipe, folder, split=split)]
        for split in ("train", "validation", "test")
    }
    assert parts["validation"] == parts["test"]
    assert len(parts["train"]) + len(parts["test"]) == 16
    assert not set(parts["train"]) & set(parts["test"])
    assert [n.split("/")[0] for n in parts["test"]] == ["cat", "cat", "dog"]
    assert found.notes == (
        "no folder val: 3 of 16 images, 20% of each class and always the same, are for validation",
    )


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "test"])
def test_a_split_of_its_own_is_used_under_each_usual_name(name, photos, read, tmp_path):
    photos(tmp_path / "train", {"cat": 3, "dog": 2})
    photos(tmp_path / name, {"cat": 1})
    found = recipe_for_folder(tmp_path, options())
    assert found.notes == (f"class dog has no image in {name}, so it is not scored",)
    recipe = read(found.text)
    assert (recipe.data.train, recipe.data.test) == ("train", name)
    assert len(listed(recipe, tmp_path, split="train")) == 5
    assert len(listed(recipe, tmp_path, split="validation")) == 1


def test_a_file_of_names_gives_the_order_of_classes(photos, read, tmp_path):
    photos(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "classes.txt").write_text("dog\ncat\n\n")
    recipe = read(recipe_for_folder(tmp_path, options()).text)
    assert recipe.class_names == ("dog", "cat")
    assert {i.name[:3]: i.label for i in listed(recipe, tmp_path, split="train")} == {
        "dog": 0,
        "cat": 1,
    }
    (tmp_path / "other.txt").write_text("dog\neel\n")
    with pytest.raises(
        RecipeError, match=r"not those of the folders in .*: cat, eel are in one of"
    ):
        recipe_for_folder(tmp_path, options(classes=tmp_path / "other.txt"))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"holds no images; expected FOLDER/train/CLASS"),
        ({"train/cat": 2, "val/cat": 1}, "has one class only, cat; a classifier needs a folder"),
        (
            {"train/cat": 2, "train/dog": 2, "val/eel": 1},
            "class eel has images in .*val and none in .*train; add some there, or remove it",
        ),
        (
            {"images": 2, "masks": 2},
            "holds images and masks, which is the layout of masks; give --",
        ),
        ({"val/cat": 2, "val/dog": 2}, "has val and no train; name the folder"),
        ({"cat": 2, "dog": 0}, "dog holds no images; put those of a class there, or delete it"),
        ({"cat": 2, "dog/small": 2}, r"dog/small/0\.jpg lies too deep; images lie right in"),
        ({"cat": 1, "dog": 1}, "has one image of each class, and some are needed for validation"),
    ],
)
def test_what_is_amiss_in_a_folder_is_one_sentence(counts, message, photos, tmp_path):
    photos(tmp_path, counts)
    with pytest.raises(RecipeError, match=message) as raised:
        classify_data(tmp_path, names=None)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_and_images_in_no_folder_are_named(photos, tmp_path):
    with pytest.raises(RecipeError, match=r"no folder .*gone; give the folder with your images"):
        classify_data(tmp_path / "gone", names=None)
    photos(tmp_path, {"cat": 2})
    Image.new("RGB", (9, 9)).save(tmp_path / "stray.png")
    with pytest.raises(RecipeError, match=r"stray\.png lies in no folder of a class; put it into"):
        classify_data(tmp_path, names=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "a", "pretrained": True}, "--weights and --pretrained are two starts"),
        ({"weights_key": "ema"}, "--weights-key names a part of --weights"),
        ({"size": (32, 48)}, "trained on squares; give one side twice, such as --size 32x32"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        options(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "timm:resnet9000"}, "timm has no model 'resnet9000'"),
        ({"network": "swin:x"}, r"models: .*smp:NAME, py:FILE\.py:FUNCTION$"),
        ({"network": "smp:Unet"}, r"for task classify a network gives \(batch, classes\), .*smp:"),
        ({"network": "small_cnn", "settings": {"wide": 1}}, "small_cnn' refuses its options"),
        ({"size": (64, 64)}, "the network does not take images of 64x64 .* give another size"),
        ({"pretrained": True, "network": "py:gone.py:f"}, r"no Python file gone\.py"),
    ],
)
def test_a_network_that_does_not_fit_is_one_sentence(changes, message, photos, tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    photos(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(RecipeError, match=message) as raised:
        recipe_for_folder(tmp_path, options(**changes))
    assert "\n" not in str(raised.value)


def test_images_are_prepared_as_the_library_says_and_comments_say_so(photos, read, tmp_path):
    photos(tmp_path / "pets", {"cat": 2, "dog": 2})
    found = recipe_for_folder(
        tmp_path / "pets", options(network="timm:test_vit", size=None, epochs=3, batch=2, seed=7)
    )
    recipe = read(found.text)
    assert (recipe.name, recipe.epochs, recipe.batch, recipe.seed) == ("pets-test-vit", 3, 2, 7)
    assert recipe.preprocessing.size == (160, 160)
    assert recipe.preprocessing.resample == "bicubic"
    assert recipe.normalization.mean == (0.5, 0.5, 0.5)
    assert "# as timm says of its published weights." in found.text
    assert str(tmp_path) not in found.text


def test_a_network_of_one_size_is_told_the_size(photos, read, tmp_path):
    photos(tmp_path, {"cat": 2, "dog": 2})
    recipe = read(recipe_for_folder(tmp_path, options(network="timm:test_vit")).text)
    assert recipe.model.options == {"img_size": [32, 32]}


def test_a_start_is_a_weights_file_or_a_download(photos, read, tmp_path):
    photos(tmp_path, {"cat": 2, "dog": 2})
    cold = read(recipe_for_folder(tmp_path, options()).text)
    warm = read(recipe_for_folder(tmp_path, options(weights="w.pth", weights_key="ema")).text)
    downloaded = read(recipe_for_folder(tmp_path, options(pretrained=True)).text)
    assert (warm.backbone, warm.weights_key, downloaded.pretrained) == ("w.pth", "ema", True)
    assert warm.optimizer.lr == downloaded.optimizer.lr < cold.optimizer.lr
    assert re.search(r"^# Start: a run or weights file", recipe_text(tmp_path), re.MULTILINE)


def recipe_text(folder):
    return recipe_for_folder(folder, options(weights="w.pth")).text
