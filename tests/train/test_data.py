import re
import shutil
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from dlcv.runtime.errors import RecipeError
from dlcv.train.data import load_dataset
from dlcv.train.data.augment import Classify, CropFlip, ScaleCropFlip, jittered
from dlcv.train.data.batches import Dataset, PlainBatches, TrainBatches
from dlcv.train.recipe import Recipe, load_recipe
from dlcv.train.settings import AugmentConfig

CIFAR = {"name": "cifar10", "root": "classify"}


def test_contact_sheets_are_cut_in_order(toy_data, new_recipe):
    dataset = load_dataset(new_recipe(), toy_data, split="train")
    assert dataset.images.shape == (32, 32, 32, 3)
    assert dataset.images.dtype == torch.uint8
    brightest = dataset.images.float().mean((1, 2)).argmax(1)
    assert torch.equal(brightest, dataset.labels)


def test_the_training_limit_leaves_validation_whole(toy_data, new_recipe):
    recipe = new_recipe(data={"name": "cifar10", "root": "classify", "train_limit": 5})
    assert len(load_dataset(recipe, toy_data, split="train")) == 5
    assert len(load_dataset(recipe, toy_data, split="test")) == 16


def test_damaged_sheets_and_labels_are_named(toy_data, new_recipe, tmp_path):
    folder = shutil.copytree(toy_data / "classify", tmp_path / "classify")
    np.save(folder / "train_labels.npy", np.array([0, 3], np.uint8))
    with pytest.raises(
        RecipeError, match=r"train_labels\.npy holds .* up to 3; expected .* 0\.\.2"
    ):
        load_dataset(new_recipe(), tmp_path, split="train")
    Image.new("RGB", (32, 32)).save(folder / "test_00.webp")
    with pytest.raises(RecipeError, match=r"test_00\.webp has shape \(32, 32, 3\); expected \(800"):
        load_dataset(new_recipe(), tmp_path, split="test")
    (folder / "test_00.webp").unlink()
    with pytest.raises(RecipeError, match=r"test_00\.webp is not a readable contact sheet"):
        load_dataset(new_recipe(), tmp_path, split="test")


def test_unknown_sets_and_missing_folders_are_named(new_recipe, tmp_path):
    with pytest.raises(RecipeError, match="no folder classify under the data root"):
        load_dataset(new_recipe(), tmp_path, split="train")
    with pytest.raises(
        RecipeError,
        match="no data set 'mnist'; data sets: folders, labelled-names, csv, pairs, cifar10",
    ):
        load_dataset(new_recipe(data={"name": "mnist", "root": "x"}), tmp_path, split="train")


def test_void_is_the_ignored_label_and_sizes_stay(toy_data, new_recipe):
    dataset = load_dataset(new_recipe("segment"), toy_data, split="train")
    assert dataset.images.shape == (4, 40, 48, 3)
    assert dataset.labels.shape == (4, 40, 48)
    assert (dataset.labels[:, :4, :4] == 255).all()
    assert dataset.labels[0].unique().tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("drop", "label", "message"),
    [
        ("labels/b.png", 3, "train.zip: images/b.jpg has no mask labels/b.png"),
        ("images/b.jpg", 3, "train.zip: labels/b.png has no image images/b.jpg"),
        (
            "",
            4,
            "segment, train images: mask labels/a.png holds label 4; classes are 0..2, ignored 3",
        ),
    ],
)
def test_a_pair_that_does_not_fit_is_named(new_recipe, new_zip, tmp_path, drop, label, message):
    (tmp_path / "segment").mkdir()
    new_zip(tmp_path / "segment" / "train.zip", names=["a", "b"], drop=drop, label=label)
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_dataset(new_recipe("segment"), tmp_path, split="train")


def test_a_mask_of_another_size_than_its_image_is_named(toy_data, new_recipe, tmp_path):
    folder = tmp_path / "segment"
    with ZipFile(toy_data / "segment" / "train.zip") as archive:
        archive.extractall(folder / "train.zip")  # a folder serves as well
    Image.new("L", (48, 39)).save(folder / "train.zip" / "labels" / "c.png")
    message = r"segment, train images: mask labels/c\.png is \(39, 48\), its image images/c\.jpg \(40, 48\)"
    with pytest.raises(RecipeError, match=message):
        load_dataset(new_recipe("segment"), tmp_path, split="train")


def test_masks_follow_the_crop_and_resize_of_their_images(toy_data, new_recipe):
    crop = {
        "resize": "center_crop",
        "size": [16, 16],
    }  # of 40 x 48: columns 4 to 44, no void corner
    masks = load_dataset(new_recipe("segment", preprocessing=crop), toy_data, split="train").labels
    assert masks.shape == (4, 16, 16)
    assert masks[0, 8].tolist() == [0] * 8 + [1] * 8
    half = {"resize": "stretch", "size": [20, 24]}
    masks = load_dataset(new_recipe("segment", preprocessing=half), toy_data, split="train").labels
    assert (masks[0, :2, :2] == 255).all()
    assert masks[0].unique(return_counts=True)[1].tolist() == [236, 240, 4]


def test_an_empty_or_missing_zip_is_refused(new_recipe, new_zip, tmp_path):
    (tmp_path / "segment").mkdir()
    new_zip(tmp_path / "segment" / "train.zip", names=[])
    with pytest.raises(RecipeError, match=r"no images/NAME\.jpg with"):
        load_dataset(new_recipe("segment"), tmp_path, split="train")
    with pytest.raises(RecipeError, match=r"no data at .*val\.zip; give"):
        load_dataset(new_recipe("segment"), tmp_path, split="test")


def test_real_camvid_has_its_numbers_of_images(data_root):
    dataset = load_dataset(load_recipe("camvid-lraspp", Recipe), data_root, split="test")
    assert dataset.images.shape == (101, 360, 480, 3)
    assert dataset.labels.unique().tolist() == [*range(11), 255]


def test_held_out_images_validate_and_the_test_set_is_left_for_the_end(toy_data, new_recipe):
    whole = load_dataset(new_recipe(data=CIFAR), toy_data, split="train")
    recipe = new_recipe(data=CIFAR | {"hold_out": 8})
    parts = [load_dataset(recipe, toy_data, split=name) for name in ("train", "validation")]
    assert [len(part) for part in parts] == [24, 8]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert len(load_dataset(recipe, toy_data, split="test")) == 16
    with pytest.raises(RecipeError, match="hold_out 32 leaves nothing of 32 training images"):
        load_dataset(new_recipe(data=CIFAR | {"hold_out": 32}), toy_data, split="train")


def test_batches_are_a_function_of_seed_and_epoch(toy_data, new_recipe):
    dataset = load_dataset(new_recipe(), toy_data, split="train")
    augment = Classify(AugmentConfig(crop=32, pad=4, jitter=0.2))

    def epoch(seed, number):
        batches = TrainBatches(dataset=dataset, batch=8, augment=augment, seed=seed, epoch=number)
        assert len(list(batches)) == len(batches) == 4
        return torch.cat([images for images, _ in batches])

    assert torch.equal(epoch(1, 0), epoch(1, 0))
    assert not torch.equal(epoch(1, 0), epoch(1, 1))
    assert not torch.equal(epoch(1, 0), epoch(2, 0))


def test_a_training_epoch_leaves_out_the_rest_and_validation_does_not(toy_data, new_recipe):
    dataset = load_dataset(new_recipe(), toy_data, split="test")
    augment = Classify(AugmentConfig(crop=32))
    train = TrainBatches(dataset=dataset, batch=5, augment=augment, seed=0, epoch=0)
    assert [len(labels) for _, labels in train] == [5, 5, 5]
    plain = PlainBatches(dataset=dataset, batch=5)
    assert [len(labels) for _, labels in plain] == [5, 5, 5, 1]
    assert len(plain) == 4


def test_images_and_labels_must_be_as_many():
    with pytest.raises(ValueError, match="2 images but 3 labels"):
        Dataset(images=torch.zeros(2, 4, 4, 3), labels=torch.zeros(3))


def test_crops_are_windows_of_the_padded_image_or_of_its_mirror_image():
    image = torch.arange(6 * 6 * 3, dtype=torch.uint8).reshape(1, 6, 6, 3)
    padded = torch.nn.functional.pad(image, (0, 0, 1, 1, 1, 1))[0]
    windows = [padded[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    allowed = {w.numpy().tobytes() for w in windows + [w.flip(1) for w in windows]}
    batch = image.expand(64, -1, -1, -1)
    cropped = CropFlip(AugmentConfig(crop=6, pad=1))(batch, torch.Generator().manual_seed(0))
    seen = {w.contiguous().numpy().tobytes() for w in cropped}
    assert seen <= allowed
    assert len(seen) > 12


def test_scaled_crops_keep_image_and_mask_together():
    mask = torch.zeros(1, 40, 60, dtype=torch.uint8)
    mask[:, 10:30, 20:50] = 1
    image = (mask * 200)[..., None].expand(-1, -1, -1, 3).contiguous()
    augment = ScaleCropFlip(AugmentConfig(crop=32, scale=(0.5, 2)), fill=(0.5, 0.5, 0.5))
    generator = torch.Generator().manual_seed(0)
    padded = 0
    for _ in range(20):
        images, masks = augment(image, mask, generator, torch.zeros(1))
        assert images.shape == (1, 32, 32, 3)
        assert images.dtype == masks.dtype == torch.uint8
        outside = masks == 255
        padded += int(outside.any())
        assert (images[outside] == 128).all()
        inside = ~outside
        wrong = ((images[..., 0] > 100) != (masks == 1)) & inside
        assert wrong.sum() <= 0.05 * inside.sum()  # half a pixel at the edges
    assert 0 < padded < 20


def test_jitter_keeps_shape_type_and_range_and_none_is_nothing():
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert jittered(images, 0.0, generator=generator) is images
    changed = jittered(images, 0.5, generator=generator)
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
