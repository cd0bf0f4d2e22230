"""Checkpoints, timm and torchvision become sources; what does not fit is refused in one sentence."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from dlcv.export.bundle import export_bundle
from dlcv.export.sources import SourceOptions, load_source
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.engines import load_engine
from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.images import load_pixels
from dlcv.train.checkpoint import save_checkpoint
from dlcv.train.models import build_model
from dlcv.train.recipe import Recipe, builtin_recipes, load_recipe

RANDOM = SourceOptions(random=True)
SMALL = ["cifar10-basic-cnn", "camvid-lraspp"]  # for what does not depend on the recipe


@pytest.fixture(
    params=[name for name in builtin_recipes() if isinstance(load_recipe(name), Recipe)]
)
def checkpoint(request, tmp_path):
    """An untrained checkpoint of a built-in recipe."""
    recipe = load_recipe(request.param, Recipe)
    torch.manual_seed(0)
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=len(recipe.classes))
    metrics = {"accuracy": 0.9, "recall": {"a": 0.5}, "images": 1234, "epoch": 3}
    save_checkpoint(tmp_path / "run", spec.network, recipe=recipe, metrics=metrics)
    return tmp_path / "run"


def test_a_checkpoint_brings_everything_from_its_recipe(checkpoint):
    source, recipe = load_source(str(checkpoint)), load_recipe(checkpoint / "recipe.yaml", Recipe)
    assert (source.task, source.classes) == (recipe.task, recipe.classes)
    assert source.preprocessing == recipe.preprocessing
    assert (source.mean, source.std) == (recipe.normalization.mean, recipe.normalization.std)
    assert source.remake[0].startswith(f"dlcv-train fit {recipe.name} --data DATA")
    measured = {m.name: (m.value, m.data) for m in source.metrics}
    assert set(measured) == {"accuracy", "recall.a"}
    assert measured["accuracy"][0] == 0.9
    assert "1,234 images" in measured["accuracy"][1]


@pytest.mark.parametrize("checkpoint", SMALL, indirect=True)
def test_a_changed_recipe_is_named_as_a_file(checkpoint):
    text = (checkpoint / "recipe.yaml").read_text()
    (checkpoint / "recipe.yaml").write_text(text.replace("seed: ", "seed: 1"))
    assert "dlcv-train fit recipe.yaml " in load_source(str(checkpoint)).remake[0]


@pytest.mark.parametrize("checkpoint", SMALL, indirect=True)
def test_a_checkpoint_takes_no_other_weights(checkpoint):
    with pytest.raises(InputError, match="holds its weights"):
        load_source(str(checkpoint), RANDOM)


@pytest.mark.parametrize("checkpoint", SMALL, indirect=True)
def test_classes_and_size_of_a_checkpoint_may_be_changed(checkpoint, tmp_path):
    count = len(load_source(str(checkpoint)).classes)
    (tmp_path / "names.txt").write_text("".join(f"name {i}\n" for i in range(count)))
    options = SourceOptions(classes=tmp_path / "names.txt", size=(64, 96))
    source = load_source(str(checkpoint), options)
    assert source.classes[-1].name == f"name {count - 1}"
    assert source.preprocessing.size == (64, 96)
    (tmp_path / "names.txt").write_text("one\n")
    with pytest.raises(InputError, match=f"names 1 classes, the checkpoint has {count}"):
        load_source(str(checkpoint), options)


def test_nothing_to_export_is_said_with_the_choices():
    with pytest.raises(
        InputError,
        match=r"give a checkpoint folder, or one of timm:\.\.\., torchvision:\.\.\., smp:\.\.\., hf:\.\.\., py:",
    ):
        load_source("nowhere/at-all")


def test_weights_and_random_contradict_each_other(tmp_path):
    with pytest.raises(InputError, match="contradict each other"):
        SourceOptions(weights=tmp_path / "w.pth", random=True)


def test_timm_brings_names_and_preprocessing():
    source = load_source("timm:vit_tiny_patch16_224", RANDOM)
    assert source.preprocessing == Preprocessing(
        resize="center_crop", size=(224, 224), resample="bicubic", crop_fraction=224 / 248
    )
    assert (source.mean, source.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert [c.name for c in source.classes[:2]] == ["tench", "goldfish"]
    assert len(source.classes) == 1000
    assert "random weights (seed 0)" in source.origin


def test_random_weights_are_the_same_each_time_and_leave_other_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = (load_source("timm:test_vit", RANDOM).model.state_dict() for _ in range(2))
    assert torch.rand(1) == expected
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_vit_of_timm_takes_another_size(tmp_path):
    source = load_source("timm:test_vit", replace(RANDOM, size=(64, 96)))
    bundle = export_bundle(source, tmp_path / "b")
    assert bundle.graph().inputs[0].shape == ("batch", 64, 96, 3)
    assert bundle.graph().outputs[2].shape == ("batch", 4, 6)


def test_classes_decide_the_size_of_a_new_head(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    options = replace(RANDOM, classes=tmp_path / "names.txt")
    for spec in ("timm:test_resnet", "torchvision:squeezenet1_1"):
        source = load_source(spec, options)
        assert [c.name for c in source.classes] == ["cat", "dog"]
        assert source.model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("spec", ["timm:test_resnet", "torchvision:squeezenet1_1"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_come_from_a_file(tmp_path, spec, suffix):
    library, _, name = spec.partition(":")
    torch.manual_seed(3)
    model = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    path = tmp_path / f"mine.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(model.state_dict(), path)
    source = load_source(spec, SourceOptions(weights=path))
    torch.testing.assert_close(source.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert "weights from mine" in source.origin
    assert str(tmp_path) not in source.origin + "".join(source.remake)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    state["extra"] = state.pop("classifier.1.bias")
    state["features.0.weight"] = torch.zeros(2, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(RecipeError) as caught:
        load_source("torchvision:squeezenet1_1", SourceOptions(weights=tmp_path / "w.pth"))
    for part in (
        "1 missing: classifier.1.bias",
        "1 unexpected: extra",
        "features.0.weight (2x3 instead",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_tiny_patch16_244", "no model 'vit_tiny_patch16_244'; near it are vit_tiny"),
        ("torchvision:mobilenet_v22", "no model 'mobilenet_v22'; near it are mobilenet_v2"),
        ("torchvision:mobilenet_v2@V9", "no weights 'V9', only IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:raft_small", "neither classifies nor segments"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(spec, message):
    with pytest.raises(InputError, match=message):
        load_source(spec, RANDOM)


@pytest.mark.parametrize("spec", ["timm:test_vit", "torchvision:squeezenet1_1"])
def test_weights_that_cannot_be_downloaded_are_said_in_one_sentence(monkeypatch, spec):
    def unreachable(*_, **__):
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr("timm.create_model", unreachable)
    monkeypatch.setattr("torchvision.models.get_model", unreachable)
    with pytest.raises(InputError, match=r"\(Name or service not known\); give --weights FILE, or"):
        load_source(spec)


def test_a_segmenter_of_torchvision_keeps_the_aspect_ratio(tmp_path):
    source = load_source("torchvision:lraspp_mobilenet_v3_large", RANDOM)
    assert source.task == "segment"
    assert source.preprocessing.resize == "longest_side"
    assert source.preprocessing.size == (520, 696)
    assert source.classes[15].name == "person"


def test_the_auxiliary_head_of_a_segmenter_may_be_in_its_weights(tmp_path):
    name = "deeplabv3_mobilenet_v3_large"
    model = torchvision.models.get_model(name, weights_backbone=None, aux_loss=True)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    source = load_source(f"torchvision:{name}", SourceOptions(weights=tmp_path / "w.pth"))
    assert not any(key.startswith("aux_classifier") for key in source.model.state_dict())


def test_a_downloaded_mobilenet_is_as_accurate_in_its_bundle(data_root, tmp_path):
    """README of the data: top-1 of 76.0 % on these photos, resized to 256 and cropped to 224."""
    weights = data_root / "weights" / "mobilenet_v2_imagenet_deq.pth"
    source = load_source("torchvision:mobilenet_v2@IMAGENET1K_V1", SourceOptions(weights=weights))
    bundle = export_bundle(source, tmp_path / "mobilenet")
    pixels, labels = photos_with_labels(data_root / "photos", source.preprocessing, every=3)
    with load_engine(bundle, "ort") as engine:
        answers = [engine.infer({"image": part})["probabilities"] for part in np.split(pixels, 5)]
    accuracy = np.mean(np.concatenate(answers).argmax(1) == labels)
    assert 0.68 <= accuracy <= 0.86  # 100 photos: two standard errors about .76


def photos_with_labels(folder, preprocessing, *, every):
    rows = (folder / "labels.csv").read_text().splitlines()[1::every]
    with zipfile.ZipFile(folder / "imagenet_sample.zip") as archive:
        names = {name.rpartition("/")[2]: name for name in archive.namelist()}
        images = [
            Image.open(io.BytesIO(archive.read(names[row.split(",")[0].rpartition("/")[2]])))
            for row in rows
        ]
    pixels = np.stack([load_pixels(image, preprocessing).pixels for image in images])
    return pixels, np.array([int(row.split(",")[1]) for row in rows])


@pytest.mark.parametrize(
    ("spec", "size", "message"),
    [
        (
            "torchvision:lraspp_mobilenet_v3_large",
            (100, 100),
            "--size does not fit: .*multiple of 8",
        ),
        ("torchvision:vit_b_16", (64, 96), "does not take images of 64x96"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(spec, size, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_bundle(load_source(spec, replace(RANDOM, size=size)), tmp_path / "b")


def test_a_transformer_of_one_size_takes_no_other(make_source, tmp_path):
    preprocessing = Preprocessing(resize="stretch", size=(48, 48))
    source = make_source("vit", preprocessing=preprocessing)
    with pytest.raises(InputError, match=r"does not take images of 48x48 .*; give another --size"):
        export_bundle(source, tmp_path / "b")


@pytest.mark.parametrize("name", ["cnn", "segmenter"])
def test_classes_must_be_as_many_as_the_models(make_source, tmp_path, name):
    source = make_source(name)
    fewer = replace(source, classes=source.classes[:-1])
    with pytest.raises(InputError, match="the model has 5 classes, 4 are named"):
        export_bundle(fewer, tmp_path / "b")


def test_published_weights_keep_their_head(monkeypatch, tmp_path):
    """timm would give another number of classes a random head, in silence."""
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained, **k: create(name, **k))
    source = load_source("timm:test_resnet", SourceOptions(classes=tmp_path / "names.txt"))
    with pytest.raises(InputError, match="the model has 1000 classes, 2 are named"):
        export_bundle(source, tmp_path / "b")


def test_weights_of_a_training_script_are_taken_and_said(tmp_path):
    state = torchvision.models.squeezenet1_1(num_classes=3).state_dict()
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped | {"epoch": 7}, tmp_path / "run.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    said: list[str] = []
    options = SourceOptions(
        weights=tmp_path / "run.pth", classes=tmp_path / "names.txt", on_note=said.append
    )
    source = load_source("torchvision:squeezenet1_1", options)
    assert said == ["took 'state_dict' of run.pth; stripped 'module.'"]
    assert torch.equal(source.model.state_dict()["features.0.weight"], state["features.0.weight"])


def test_a_key_of_weights_needs_weights():
    with pytest.raises(InputError, match="--weights-key names a part of --weights; give that too"):
        SourceOptions(weights_key="model_ema")
