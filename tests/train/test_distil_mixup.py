"""Learning from a teacher of other classes, and from mixed images."""

import torch
from torch import nn

from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.fit import fit
from dlcv.train.models import build_model
from dlcv.train.modules import mixed_up, normalised
from dlcv.train.settings import DistillConfig, ModelConfig, Normalization
from dlcv.train.supervised import Teacher

STUDENT = Normalization(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
OWN = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_a_teacher_sees_its_own_normalisation_and_answers_with_the_students_classes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    config = DistillConfig(
        model=ModelConfig(name="any"), weights="w", outputs=5, classes=(4, 0), normalization=OWN
    )
    teacher = Teacher(network, config, STUDENT)
    images = torch.randint(0, 256, (3, 2, 2, 3), dtype=torch.uint8)
    expected = network(normalised(images, OWN))[:, [4, 0]]
    torch.testing.assert_close(teacher(normalised(images, STUDENT)), expected)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_mixed_images_are_shares_of_two_images_and_of_their_labels() -> None:
    torch.manual_seed(0)
    labels = torch.arange(6)
    pixels = torch.eye(6)[labels]
    images, mixed = mixed_up(pixels, labels, alpha=0.8)
    assert mixed.partners is not None
    assert 0 < mixed.share < 1
    expected = mixed.share * pixels + (1 - mixed.share) * torch.eye(6)[mixed.partners]
    torch.testing.assert_close(images, expected)


def test_without_mixup_a_batch_stays_as_it_is() -> None:
    pixels, labels = torch.rand(2, 3), torch.tensor([0, 1])
    images, mixed = mixed_up(pixels, labels, alpha=0)
    assert images is pixels
    assert mixed.partners is None


def test_a_recipe_learns_from_a_teacher_of_more_classes(new_recipe, toy_data, tmp_path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "classify").symlink_to(toy_data / "classify")
    teacher = build_model("cifar_resnet20", num_classes=7).network
    torch.save(teacher.state_dict(), tmp_path / "weights" / "teacher.pth")
    distill = {
        "model": {"name": "cifar_resnet20"},
        "weights": "weights/teacher.pth",
        "outputs": 7,
        "classes": [6, 2, 4],
    }
    recipe = new_recipe(distill=distill, epochs=1, augment={"crop": 32, "mixup": 0.5})
    with torch.random.fork_rng():
        fit(recipe, tmp_path, out=tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").recipe == recipe
