"""Every kind of labelled data can be trained on, from folders and archives; what does not fit is named."""

import hashlib
import io
import pickle
import tarfile
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from dlcv.runtime.errors import RecipeError
from dlcv.train.data import load_dataset

LABELS = ("n01", "n02", "n03")


def photo(value: int, *, size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def packed(path, files: dict[str, bytes]) -> None:
    """Write files into a folder, a ZIP or a tar archive, as the path's name says."""
    if path.suffix == ".zip":
        with ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif ".tar" in path.name:
        with tarfile.open(path, f"w:{path.suffix[1:].removesuffix('tar')}") as archive:  # type: ignore[call-overload]  # the mode is made of the name
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)


@pytest.mark.parametrize(
    "archive", ["train", "train.zip", "train.tar", "train.tar.gz", "train.tar.xz"]
)
def test_class_folders_are_read_where_they_lie(new_recipe, tmp_path, archive):
    files = {f"{label}/{i}.png": photo(10 * c) for c, label in enumerate(LABELS) for i in range(2)}
    packed(tmp_path / archive, files)
    data = {"name": "folders", "root": ".", "train": archive, "labels": LABELS}
    dataset = load_dataset(new_recipe(data=data), tmp_path, split="train")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 20, 20]
    assert dataset.names[:2] == ("n01/0.png", "n01/1.png")


def test_photos_of_any_size_are_brought_to_the_recipe_s_and_training_ones_to_what_is_stored(
    new_recipe, tmp_path
):
    for split in ("train", "test"):
        sizes = enumerate([(50, 40), (32, 32), (64, 20)])
        packed(tmp_path / split, {f"{c}/a.png": photo(c, size=size) for c, size in sizes})
    recipe = new_recipe(
        data={"name": "folders", "root": ".", "train": "train", "test": "test"},
        preprocessing={"resize": "center_crop", "size": [32, 32]},
        augment={"stored": [48, 48], "crop": 32},
    )
    assert load_dataset(recipe, tmp_path, split="train").images.shape == (3, 48, 48, 3)
    validation = load_dataset(recipe, tmp_path, split="validation")
    assert validation.images.shape == (3, 32, 32, 3)
    assert validation.sizes == ((40, 50), (32, 32), (20, 64))


def test_labels_stand_in_names(new_recipe, tmp_path):
    names = [f"{label}_{number}.png" for label in (0, 1, 2) for number in (7, 10)]
    packed(tmp_path / "train.zip", dict.fromkeys(names, photo(0)))
    data = {"name": "labelled-names", "root": ".", "train": "train.zip"}
    assert load_dataset(new_recipe(data=data), tmp_path, split="train").labels.tolist() == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip
    packed(tmp_path / "train.zip", {**dict.fromkeys(names, photo(0)), "3_1.png": photo(0)})
    with pytest.raises(
        RecipeError, match=r"train.zip: 3_1.png has label 3; there are 3 classes, 0..2"
    ):
        load_dataset(new_recipe(data=data), tmp_path, split="train")
    packed(tmp_path / "train.zip", {"cat.png": photo(0)})
    with pytest.raises(RecipeError, match=r"train.zip: cat.png is not named LABEL_NUMBER"):
        load_dataset(new_recipe(data=data), tmp_path, split="train")


def test_a_csv_names_the_images_of_an_archive_beside_it(new_recipe, tmp_path):
    packed(tmp_path / "images.tar", {f"{i}.png": photo(i) for i in range(3)})
    (tmp_path / "train.csv").write_text("filename,label\n2.png,blue\n0.png,red\n1.png,1\n")
    data = {"name": "csv", "root": ".", "train": "train.csv"}
    dataset = load_dataset(new_recipe(data=data), tmp_path, split="train")
    assert dataset.labels.tolist() == [2, 0, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [2, 0, 1]


def test_what_is_sorted_by_class_is_shuffled_before_images_are_held_out(new_recipe, tmp_path):
    packed(tmp_path / "train", {f"{i // 20}/{i}.png": photo(i) for i in range(60)})
    data = {"name": "folders", "root": ".", "train": "train", "hold_out": 12}
    parts = [load_dataset(new_recipe(data=data, seed=seed), tmp_path, split=split)
             for seed in (0, 1) for split in ("train", "validation")]  # fmt: skip
    assert [len(part) for part in parts] == [48, 12, 48, 12]
    assert parts[1].names == parts[3].names
    assert set(parts[1].labels.tolist()) == {0, 1, 2}
    assert set(parts[0].names).isdisjoint(parts[1].names)


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ({}, {"red/a.png": b"", "green/a.png": b"", "blue/a.png": b""}, "blue/a.png: empty file"),
        ({}, {"red/a.png": b"", "pink/a.png": b""}, "pink/a.png: 'pink' is neither one of the 3"),
        ({}, {"red/a.png": b""}, r"2 of the recipe's 3 classes have no training image, such as 'green' \(1\)"),
        ({"train": None}, {"a": b""}, r"data.train is missing: where in \. does that split lie"),
        ({"train": "train.rar"}, {"a": b""}, "no data at .*train.rar; give a folder"),
        ({"name": "pairs"}, {"a": b""}, "data set pairs does not fit task classify"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_the_recipe_is_named(new_recipe, tmp_path, changes, files, message):
    packed(tmp_path / "train", files)
    data = {"name": "folders", "root": ".", "train": "train"} | changes
    with pytest.raises(RecipeError, match=message):
        load_dataset(new_recipe(data=data), tmp_path, split="train")


@pytest.mark.parametrize("name", ["train.tar", "train.tar.xz", "train.zip"])
def test_a_damaged_archive_is_named(new_recipe, tmp_path, name):
    (tmp_path / name).write_bytes(b"no archive" * 100)
    data = {"name": "folders", "root": ".", "train": name}
    with pytest.raises(RecipeError, match=rf"{name} is not a readable (tar|ZIP)"):
        load_dataset(new_recipe(data=data), tmp_path, split="train")


def test_images_of_several_sizes_after_preprocessing_are_refused(new_recipe, tmp_path):
    packed(tmp_path / "train", {f"{c}/a.png": photo(0, size=(32, 20 + 8 * c)) for c in range(3)})
    recipe = new_recipe(
        data={"name": "folders", "root": ".", "train": "train"},
        preprocessing={"resize": "longest_side", "size": [32, 32]},
    )
    with pytest.raises(RecipeError, match=r"1/a.png is \(28, 32\), 0/a.png \(20, 32\); one size"):
        load_dataset(recipe, tmp_path, split="train")


def test_cifar10_as_its_authors_pack_it(new_recipe, tmp_path, monkeypatch):
    """The format of https://www.cs.toronto.edu/~kriz/cifar.html, with small files under real names."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    contents = {"data_batch_1": {"data": images.reshape(20, -1), "labels": [*range(10)] * 2},
                "batches.meta": {"label_names": [f"class {c}" for c in range(10)]}}  # fmt: skip
    sums = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    classes = [{"name": f"class {c}"} for c in range(10)]
    recipe = new_recipe(data={"name": "cifar10", "root": "."}, classes=classes)
    dataset = load_dataset(recipe, tmp_path, split="train")
    assert torch.equal(dataset.images, torch.from_numpy(images).permute(0, 2, 3, 1))
    assert dataset.labels.tolist() == [*range(10)] * 2
    (folder / "data_batch_1").write_bytes(b"")
    with pytest.raises(
        RecipeError, match=r"neither train_labels.npy .* nor a whole cifar-10-batches-py"
    ):
        load_dataset(recipe, tmp_path, split="train")
