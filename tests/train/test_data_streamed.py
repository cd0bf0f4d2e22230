"""Splits that are streamed from disk give the batches that they would give from memory."""

import pickle
import re
import shutil

import msgspec
import pytest
import torch
from PIL import Image

from dlcv.runtime.errors import RecipeError
from dlcv.train.data import Dataset, StreamedDataset, load_dataset, open_dataset
from dlcv.train.data.augment import augment_for
from dlcv.train.data.batches import PlainBatches, TrainBatches, prefetched
from dlcv.train.data.check import summary_lines
from dlcv.train.data.memory import available_bytes
from dlcv.train.data.module import RecipeData
from dlcv.train.fit import fit
from dlcv.train.losses import class_weights
from dlcv.train.settings import LossConfig


@pytest.fixture
def kept(new_recipe):
    """Return a recipe whose data are in memory or not: `kept(task, in_memory)`."""

    def recipe(task, in_memory, **changes):
        made = new_recipe(task, **changes)
        data = msgspec.structs.replace(made.data, in_memory=in_memory)
        return msgspec.structs.replace(made, data=data)

    return recipe


@pytest.mark.parametrize("task", ["classify", "segment"])  # contact sheets, and ZIP archives
def test_batches_are_the_same_from_disk_and_from_memory(task, kept, toy_data):
    datasets = [open_dataset(kept(task, keep), toy_data, split="train") for keep in (True, False)]
    assert list(map(type, datasets)) == [Dataset, StreamedDataset]
    augment = augment_for(kept(task, True))
    shuffled = [
        TrainBatches(dataset=dataset, batch=2, augment=augment, seed=3, epoch=1)
        for dataset in datasets
    ]
    plain = [PlainBatches(dataset=dataset, batch=3, rank=1, world=2) for dataset in datasets]
    for in_memory, streamed in (shuffled, plain):
        helped = list(prefetched(streamed, workers=2))
        assert len(in_memory) == len(helped) > 0
        for one, two, three in zip(in_memory, streamed, helped, strict=True):
            for a, b, c in zip(one, two, three, strict=True):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
                assert torch.equal(a, c)


def test_a_run_from_disk_ends_where_one_from_memory_ends(kept, toy_data, tmp_path):
    metrics = []
    for keep in (True, False):
        with torch.random.fork_rng():
            out = tmp_path / str(keep)
            metrics.append(fit(kept("classify", keep, epochs=1), toy_data, out=out))
    assert metrics[0] == metrics[1]


def test_a_split_of_more_than_a_quarter_of_the_free_memory_is_streamed(kept, toy_data, monkeypatch):
    recipe = kept("segment", "auto")
    size = 4 * 40 * 48 * 4  # four images of three channels and a mask
    for free, kind in ((4 * size, Dataset), (4 * size - 1, StreamedDataset)):
        monkeypatch.setattr("dlcv.train.data.memory.available_bytes", lambda free=free: free)
        assert type(open_dataset(recipe, toy_data, split="train")) is kind
    assert isinstance(load_dataset(recipe, toy_data, split="train"), Dataset)


def test_the_free_memory_is_at_most_what_a_container_may_take(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 90 kB\nMemAvailable:   40 kB\n")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("30000\n")
    monkeypatch.setattr("dlcv.train.data.memory._OF_LINUX", tmp_path / "meminfo")
    monkeypatch.setattr("dlcv.train.data.memory._LIMITS", (tmp_path / "max", tmp_path / "gone"))
    assert available_bytes() == 40 * 1024
    monkeypatch.setattr("dlcv.train.data.memory._LIMITS", (tmp_path / "max", tmp_path / "limit"))
    assert available_bytes() == 30_000


def test_an_image_that_is_damaged_or_of_another_size_is_one_sentence(new_recipe, tmp_path):
    for name in ("red", "green", "blue"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (20, 20)).save(tmp_path / "in" / name / f"{number}.png")
    data = {"name": "folders", "root": "in", "train": ".", "test": ".", "in_memory": False}
    recipe = new_recipe(data=data, batch=6)
    (tmp_path / "in/red/1.png").write_bytes(b"no image")
    broken = RecipeData(recipe, tmp_path)
    with pytest.raises(RecipeError, match=r"^in, train images: red/1\.png: ") as raised:
        list(broken.train_dataloader())
    assert "\n" not in str(raised.value)
    Image.new("RGB", (20, 40)).save(tmp_path / "in/red/1.png")
    longest = {"resize": "longest_side", "size": [32, 32]}
    odd = open_dataset(new_recipe(data=data, preprocessing=longest), tmp_path, split="test")
    with pytest.raises(RecipeError, match=r"red/1\.png is \(32, 16\), blue/0\.png \(32, 32\); one"):
        odd.batch(torch.tensor([5]))


def test_what_is_printed_before_a_run_does_not_decode_a_streamed_split(kept, toy_data):
    recipe = kept("segment", False)
    train, validation = (open_dataset(recipe, toy_data, split=s) for s in ("train", "validation"))
    assert summary_lines(recipe, train=train, validation=validation) == [
        "training: 4 images, 40x48 pixels; 3 classes",
        "validation: 2 images, 40x48 pixels; 3 classes",
        "training and validation images are streamed from disk and not looked at in advance; `dlcv-train data` does",
    ]
    kept_in_memory = [load_dataset(recipe, toy_data, split=s) for s in ("train", "validation")]
    thorough = summary_lines(recipe, train=train, validation=validation, thorough=True)
    usual = summary_lines(recipe, train=kept_in_memory[0], validation=kept_in_memory[1])
    assert thorough[2:] == usual[2:]
    assert any("come twice" in line for line in thorough)
    log = LossConfig(class_weights="log")
    weights = [class_weights(d, log, num_classes=3) for d in (train, kept_in_memory[0])]
    assert weights[0] is not None
    assert weights[1] is not None
    assert torch.equal(weights[0], weights[1])


def test_a_streamed_split_and_a_part_of_it_can_be_sent_to_a_process(kept, toy_data):
    dataset = open_dataset(kept("segment", False), toy_data, split="train")
    assert isinstance(dataset, StreamedDataset)
    part = dataset[1:3]
    assert part.names == dataset.names[1:3]
    sent = pickle.loads(pickle.dumps(part))  # noqa: S301  # made here
    assert torch.equal(sent.batch(slice(None))[1], dataset.batch(torch.tensor([1, 2]))[1])


def test_fewer_images_than_a_batch_are_refused(new_recipe, toy_data, tmp_path):
    shutil.copytree(toy_data / "classify", tmp_path / "classify")
    message = "32 training images do not fill a batch of 33 for each device; lower batch"
    with pytest.raises(RecipeError, match=re.escape(message)):
        fit(new_recipe(batch=33), tmp_path, out=tmp_path / "run")
