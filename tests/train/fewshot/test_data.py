"""Class folders become splits; rotations become classes; what does not fit is refused."""

from zipfile import ZipFile

import pytest
import torch

from dlcv.runtime.errors import RecipeError
from dlcv.train.fewshot.data import EpisodeBatches, FewShotData, load_split


def changed_data(**changes):
    return {
        "root": "toy.zip",
        "train": ["base"],
        "validation": ["val"],
        "test": ["novel"],
    } | changes


def test_splits_have_classes_of_their_own(fewshot_recipe, fewshot_root):
    splits = [load_split(fewshot_recipe(), fewshot_root, split=s) for s in ("train", "test")]
    assert splits[0].classes == ("base/base0", "base/base1", "base/base2", "base/base3")
    assert len(splits[1].images) == 18
    assert splits[1].images.labels.bincount().tolist() == [6, 6, 6]


def test_single_classes_may_be_listed(fewshot_recipe, fewshot_root):
    data = changed_data(train=["base/base0", "base/base1"], validation=["base/base2", "val/val0"])
    split = load_split(fewshot_recipe(data=data), fewshot_root, split="validation")
    assert split.classes == ("base/base2", "val/val0")


def test_rotations_are_classes(fewshot_recipe, fewshot_root):
    plain = load_split(fewshot_recipe(), fewshot_root, split="test")
    turned = load_split(
        fewshot_recipe(data=changed_data(rotations=True)), fewshot_root, split="test"
    )
    assert len(turned.classes) == 4 * len(plain.classes)
    assert turned.classes[3] == "novel/novel0 turned by 90"
    quarter = turned.images.images[turned.images.labels == 3][0]
    assert torch.equal(quarter, torch.rot90(plain.images.images[0], 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": ["nothing"]}, "data.train: toy.zip has no images in a folder 'nothing'"),
        ({"root": "none.zip"}, "data.train: no data at"),
        ({"test": ["novel", "base/base1"]}, "class base/base1 is in data.train and in data.test"),
    ],
)
def test_data_that_do_not_fit_are_refused(fewshot_recipe, fewshot_root, data, message):
    with pytest.raises(RecipeError, match=message):
        load_split(fewshot_recipe(data=changed_data(**data)), fewshot_root, split="train")


def test_a_damaged_image_is_named(fewshot_recipe, tmp_path):
    with ZipFile(tmp_path / "toy.zip", "w") as archive:
        archive.writestr("base/a/0.png", b"no image")
    with pytest.raises(RecipeError, match=r"data.train: base/a/0\.png: "):
        load_split(fewshot_recipe(), tmp_path, split="train")


def test_a_run_says_what_its_episodes_are_drawn_from(fewshot_recipe, fewshot_root):
    lines = FewShotData(fewshot_recipe(), fewshot_root).summary_lines()
    assert lines[0] == (
        "training: 24 images of 4 classes (6 each); 8 episodes of 3 classes, 1 + 2 images"
    )
    assert lines[1].startswith("validation: 18 images of 3 classes")


def test_episodes_of_more_classes_than_a_split_has_name_the_split(fewshot_recipe, fewshot_root):
    asked = {"ways": 4, "shots": 1, "queries": 2, "episodes": 4}
    with pytest.raises(RecipeError, match="validation: an episode asks for 4 classes, there are 3"):
        FewShotData(fewshot_recipe(validation=asked), fewshot_root)


def test_training_steps_are_the_same_again_and_support_comes_first(fewshot_recipe, fewshot_root):
    recipe = fewshot_recipe()
    split = load_split(recipe, fewshot_root, split="train")
    drawing = split.sampler(recipe.training, split="training", seed=0)
    batches = EpisodeBatches(
        split=split, sampler=drawing, batch=2, epoch=1, augment=recipe.augment, seed=0
    )
    assert len(batches) == 4
    assert batches[0].shape == (2, 3, 3, 16, 16, 3)
    assert torch.equal(batches[1], batches[1])
    plain = EpisodeBatches(split=split, sampler=drawing, batch=2, epoch=1)
    assert torch.equal(plain[1][0], split.images.images[drawing.drawn(2, epoch=1)])
    assert not torch.equal(plain[1], batches[1])
