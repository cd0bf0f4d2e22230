"""What is printed before a long run: balance, sizes, and every kind of suspicious image."""

import torch
from typer.testing import CliRunner

from dlcv.cli.train.app import app
from dlcv.train.data.batches import Dataset
from dlcv.train.data.check import balances, findings, summary_lines
from dlcv.train.recipe import yaml_from_recipe


def random_images(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 4, 6, 3), generator=generator, dtype=torch.uint8)


def dataset(labels, *, seed: int = 0) -> Dataset:
    count = len(labels)
    names = tuple(f"{i}.png" for i in range(count))
    return Dataset(images=random_images(count, seed=seed), labels=torch.tensor(labels), names=names)


def test_shares_are_of_images_or_of_pixels_that_count():
    of_images = balances(dataset([0, 0, 2, 0]), classes=3)
    assert [(b.images, b.share) for b in of_images] == [(3, 0.75), (0, 0.0), (1, 0.25)]
    masks = torch.full((2, 4, 6), 255, dtype=torch.uint8)
    masks[0, 0] = 1
    masks[1, 0, :2] = 0
    of_pixels = balances(Dataset(images=random_images(2), labels=masks), classes=2)
    assert [(b.images, b.share) for b in of_pixels] == [(1, 0.25), (1, 0.75)]


def test_sound_data_gives_a_line_a_split(new_recipe):
    train, validation = dataset([0, 1, 2] * 20), dataset([0, 1, 2] * 10, seed=1)
    assert summary_lines(new_recipe(), train=train, validation=validation) == [
        "training: 60 images, 4x6 pixels; 3 classes, from red 33.3% to red 33.3%",
        "validation: 30 images, 4x6 pixels; 3 classes, from red 33.3% to red 33.3%",
    ]


def test_suspicious_images_are_named(new_recipe):
    train, validation = dataset([0, 1, 2] * 20), dataset([0, 1, 2] * 10, seed=1)
    train.images[3] = train.images[0]  # both red
    train.images[4] = train.images[0]  # one red, one green
    train.images[5] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    validation.images[7] = train.images[9]
    assert findings(new_recipe(), train=train, validation=validation) == [
        "training: 1 images are of one color: 5.png",
        "training: 1 images come twice: 3.png",
        "training: 1 images come again with other labels: 4.png",
        "validation: 1 images are training images too: 7.png",
    ]


def test_rare_classes_and_ignored_masks_are_named(new_recipe):
    masks = torch.zeros((20, 4, 6), dtype=torch.uint8)
    masks[:, 0] = 1
    masks[:9, 1] = 2
    masks[15:] = 255
    train = Dataset(images=random_images(20), labels=masks)
    validation = Dataset(images=random_images(20, seed=1), labels=torch.full((20, 4, 6), 1))
    assert findings(new_recipe("segment"), train=train, validation=validation) == [
        "training: 1 classes are in fewer than 10 images: blue (9)",
        "training: 120 mask pixels are ignored, 25.00%",
        "training: 5 masks hold nothing but ignored: 15, 16, 17, ...",
        "validation: 2 classes are in fewer than 10 images: red (0), blue (0)",
    ]


def test_the_command_prints_a_table_and_the_findings(toy_data, new_recipe, tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml_from_recipe(new_recipe("segment")))
    result = CliRunner().invoke(app, ["data", str(tmp_path / "toy.yaml"), "--data", str(toy_data)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["class", "training", "share", "validation", "share"]
    assert lines[1].split() == ["red", "4", "49.6%", "2", "49.6%"]
    assert lines[4].startswith("training: 4 images, 40x48 pixels; 3 classes, from blue 0.0% to")
    assert "training: 3 images come twice: images/b.jpg, images/c.jpg, images/d.jpg" in lines
