"""Augmentations of single images, AutoAugment's copies of the training set, and workers."""

import msgspec
import pytest
import torch

from dlcv.train.data.augment import Classify, augment_for
from dlcv.train.data.batches import Dataset, PlainBatches, TrainBatches, prefetched
from dlcv.train.settings import AugmentConfig


def gradients(count: int, side: int = 16) -> torch.Tensor:
    """Brightness grows to the right, another slope for each image: uint8 (count, side, side, 3)."""
    slopes = torch.arange(1, count + 1)[:, None, None, None]
    return (
        (slopes * torch.arange(side)[None, None, :, None]).expand(-1, side, -1, 3).to(torch.uint8)
    )


def batches(augment, *, epoch: int = 0, **share: int) -> TrainBatches:
    dataset = Dataset(images=gradients(12), labels=torch.arange(12))
    return TrainBatches(dataset=dataset, batch=4, augment=augment, seed=3, epoch=epoch, **share)


def augmented(images, **settings) -> torch.Tensor:
    augment = Classify(AugmentConfig(**settings))
    generator = torch.Generator().manual_seed(0)
    return augment(images, torch.zeros(len(images)), generator, torch.zeros(len(images)).long())[0]


def test_every_policy_gets_every_image_once_an_epoch():
    augment = Classify(AugmentConfig(crop=16, flip=False, policies=("imagenet", "cifar10", "svhn")))
    assert augment.copies == 3
    epoch = list(batches(augment))
    assert len(epoch) == 9
    labels = torch.cat([labels for _, labels in epoch])
    assert labels.bincount().tolist() == [3] * 12
    images = torch.cat([images for images, _ in epoch])
    assert not torch.equal(images, gradients(12)[labels])


def test_each_copy_is_changed_by_its_own_policy(monkeypatch):
    """A policy that only inverts stands for AutoAugment's, whose changes cannot be told apart."""
    augment = Classify(AugmentConfig(crop=16, flip=False, policies=("imagenet", "svhn")))
    changes = [lambda image: image, lambda image: 255 - image]
    monkeypatch.setattr(augment, "_policies", changes)
    images, copy = gradients(2), torch.tensor([1, 0])
    changed, _ = augment(images, torch.zeros(2), torch.Generator().manual_seed(0), copy)
    assert torch.equal(changed, torch.stack([255 - images[0], images[1]]))


def test_a_rotation_stays_within_its_degrees_and_none_changes_nothing():
    image = torch.zeros(64, 33, 33, 3, dtype=torch.uint8)
    image[:, 16, :] = 255  # a level line; at its ends 10 degrees are 2.8 pixels
    assert torch.equal(augmented(image, crop=33, flip=False), image)
    turned = augmented(image, crop=33, flip=False, rotation=10.0)
    rows = turned[..., 0].float().argmax(1)[:, 1]
    assert rows.min() >= 13
    assert rows.max() <= 19
    assert len(rows.unique()) >= 4


def test_a_box_of_some_area_is_resized_to_the_crop():
    boxed = augmented(gradients(8, side=32), crop=8, flip=False, area=(0.25, 0.25))
    assert boxed.shape == (8, 8, 8, 3)
    widths = boxed[:, 0, -1, 0].int() - boxed[:, 0, 0, 0].int()
    slopes = torch.arange(1, 9)
    assert (widths / slopes > 10).all()  # a quarter of the area: 14 to 18 of 32 columns
    assert (widths / slopes < 19).all()


def test_small_images_are_resized_before_they_are_cropped():
    resized = augmented(gradients(4), crop=64, resize=64, flip=False)
    assert resized.shape == (4, 64, 64, 3)
    assert torch.equal(resized[:, 0, -1, 0], gradients(4)[:, 0, -1, 0])


def test_torchvision_s_draws_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    augmented(gradients(4), crop=16, rotation=10.0, policies=("cifar10",))
    assert torch.equal(torch.rand(3), expected)


def test_worker_processes_make_the_same_batches_in_the_same_order():
    augment = Classify(AugmentConfig(crop=16, rotation=10.0, policies=("cifar10",), jitter=0.2))
    alone, helped = list(batches(augment)), list(prefetched(batches(augment), workers=2))
    assert len(alone) == len(helped) == 3
    for ours, theirs in zip(alone, helped, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_processes_share_an_epoch_without_overlap_and_in_equal_numbers():
    augment = Classify(AugmentConfig(crop=16, flip=False))
    shares = [list(batches(augment, rank=rank, world=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    labels = torch.cat([labels for share in shares for _, labels in share])
    assert labels.sort().values.tolist() == list(range(12))
    whole = Dataset(images=gradients(12), labels=torch.arange(12))
    plain = [PlainBatches(dataset=whole, batch=5, rank=rank, world=2) for rank in range(2)]
    assert [[len(labels) for _, labels in share] for share in plain] == [[5, 2], [5]]
    assert [len(share) for share in plain] == [2, 1]


@pytest.mark.parametrize(
    ("task", "augment", "message"),
    [
        ("classify", {"crop": 40}, "augment.crop 40 is larger than images of 32 pixels"),
        ("classify", {"crop": 8, "area": [0.5, 0.2]}, r"augment.area must be \(low, high\) up to 1"),
        ("classify", {"crop": 8, "area": [0.5, 1], "pad": 1}, "augment.area gives the crop by itself"),
        ("segment", {"crop": 8, "rotation": 5}, "augment.rotation is for task classify"),
    ],
)  # fmt: skip
def test_augmentations_that_contradict_a_recipe_are_refused(new_recipe, task, augment, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        new_recipe(task, augment=augment)


def test_a_recipe_s_task_chooses_its_augmentation(new_recipe):
    assert isinstance(augment_for(new_recipe()), Classify)
    assert augment_for(new_recipe("segment")).copies == 1
