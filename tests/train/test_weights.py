import argparse
import collections
import os
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dlcv.runtime.errors import RecipeError
from dlcv.train.models import build_model
from dlcv.train.weights import fitted_weights, load_backbone, load_weights, read_weights


def test_a_state_dict_is_read_from_every_format(tmp_path):
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pth")
    for name in ("a.safetensors", "a.pth", "b.pth"):
        read = read_weights(tmp_path / name)
        assert read.keys() == state.keys()
        assert torch.equal(read["weight"], state["weight"])


def test_what_is_not_weights_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")  # pickled code
    for name, message in (
        ("none.pth", "no weights file"),
        ("text.pth", "is not a weights file"),
        ("list.pth", "does not hold a state dict"),
        ("module.pth", r"whole pickled module.*save its weights: torch\.save\("),
    ):
        with pytest.raises(RecipeError, match=message):
            read_weights(tmp_path / name)


class Hyperparameters:
    """What a training script keeps beside the weights."""

    def __init__(self):
        self.learning_rate = 0.1


def checkpoint_of(network, kind):
    """A file's content as common training scripts write it."""
    state = network.state_dict()
    under = {
        "DDP": "module.",
        "compile": "_orig_mod.",
        "compiled DDP": "module._orig_mod.",
        "Lightning": "model.",
    }
    prefixed = {f"{under.get(kind, '')}{name}": tensor for name, tensor in state.items()}
    if kind == "torchvision":
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        arguments = argparse.Namespace(lr=0.1, model="net")
        return {"model": state, "optimizer": optimizer.state_dict(), "args": arguments, "epoch": 3}
    if kind == "Lightning":
        prefixed["criterion.weight"] = torch.ones(2)
        return {
            "state_dict": prefixed,
            "hyper_parameters": Hyperparameters(),
            "callbacks": {},
            "pytorch-lightning_version": "2.6",
        }
    if kind == "averaged":
        return torch.optim.swa_utils.AveragedModel(network).state_dict()
    return {"state_dict": prefixed, "epoch": 3}


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("plain", "took 'state_dict' of a.ckpt"),
        ("DDP", "took 'state_dict' of a.ckpt; stripped 'module.'"),
        ("compile", "took 'state_dict' of a.ckpt; stripped '_orig_mod.'"),
        ("compiled DDP", "took 'state_dict' of a.ckpt; stripped '_orig_mod.' and 'module.'"),
        (
            "Lightning",
            "took 'state_dict' of a.ckpt; stripped 'model.'; left 1 other tensors: criterion.weight",
        ),
        ("torchvision", "took 'model' of a.ckpt"),
        ("averaged", "stripped 'module.'; left 1 other tensors: n_averaged"),
    ],
)
def test_weights_are_found_in_checkpoints_as_people_have_them(tmp_path, kind, note):
    torch.manual_seed(0)
    trained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(checkpoint_of(trained, kind), tmp_path / "a.ckpt")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    found = fitted_weights(network, tmp_path / "a.ckpt")
    load_weights(network, found.state, source="a.ckpt")
    assert torch.equal(network.state_dict()["0.weight"], trained.state_dict()["0.weight"])
    assert found.note == note


def test_of_two_sets_of_weights_that_fit_the_user_chooses(tmp_path):
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    states = {"model": first.state_dict(), "model_ema": second.state_dict(), "epoch": 1}
    torch.save(states, tmp_path / "a.pth")
    with pytest.raises(RecipeError, match=r"2 sets of weights that fit: model, model_ema; choose"):
        fitted_weights(first, tmp_path / "a.pth")
    with pytest.raises(RecipeError, match=r"several sets of weights: model, model_ema; save the"):
        read_weights(tmp_path / "a.pth")
    found = fitted_weights(first, tmp_path / "a.pth", key="model_ema")
    assert torch.equal(found.state["weight"], second.weight)
    with pytest.raises(RecipeError, match=r"has no weights 'ema', only 'model', 'model_ema'"):
        fitted_weights(first, tmp_path / "a.pth", key="ema")


def test_of_two_sets_of_weights_the_one_that_fits_is_taken(tmp_path):
    states = {"generator": nn.Linear(2, 1).state_dict(), "critic": nn.Linear(5, 5, bias=False)}
    torch.save(
        {k: getattr(v, "state_dict", lambda v=v: v)() for k, v in states.items()},
        tmp_path / "a.pth",
    )
    found = fitted_weights(nn.Linear(2, 1), tmp_path / "a.pth")
    assert found.note == "took 'generator' of a.pth"


def test_no_code_of_a_pickle_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"state_dict": {"weight": torch.ones(1)}, "args": Evil()}, tmp_path / "a.pth")
    with suppress(RecipeError):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "made").exists()


def test_weights_that_fit_in_part_say_what_is_missing(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = {f"module.{k}": v for k, v in network.state_dict().items() if k != "0.bias"}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    found = fitted_weights(network, tmp_path / "a.pth")
    with pytest.raises(RecipeError, match=r"does not fit Sequential; 1 missing: 0\.bias$"):
        load_weights(network, found.state, source="a.pth")


def test_every_misfit_is_named():
    state = {"weight": torch.ones(3, 2), "scale": torch.ones(1)}
    with pytest.raises(RecipeError) as caught:
        load_weights(nn.Linear(3, 2), state, source="a.pth")
    assert str(caught.value) == (
        "a.pth does not fit Linear; 1 missing: bias; 1 unexpected: scale;"
        " 1 of another shape: weight (3x2 instead of 2x3)"
    )


def test_counters_of_batch_norm_may_be_absent():
    state = nn.BatchNorm2d(2).state_dict()
    state = collections.OrderedDict((k, v) for k, v in state.items() if "num_batches" not in k)
    load_weights(nn.BatchNorm2d(2), state, source="a.pth")


def test_half_precision_weights_are_converted():
    linear = nn.Linear(3, 2)
    load_weights(linear, {k: v.half() for k, v in linear.state_dict().items()}, source="a")
    assert linear.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar_resnet20", "cifar10_resnet20.pth"),
        ("cifar_resnet32", "cifar10_resnet32.pth"),
        ("vit_conv_stem", "cifar10_resnet20.pth"),
        ("lraspp_mobilenet_v2", "mobilenet_v2_imagenet_deq.pth"),
        ("deeplabv3_mobilenet_v2", "mobilenet_v2_imagenet_deq.pth"),
    ],
)
def test_a_real_weights_file_fills_the_backbone(data_root, name, file):
    spec = build_model(name, num_classes=10)
    load_backbone(spec, data_root / "weights" / file)
    first = next(iter(spec.backbone.parameters()))
    assert any(
        torch.equal(first, tensor.float())
        for tensor in read_weights(data_root / "weights" / file).values()
    )


@pytest.mark.parametrize("kind", ["DDP", "compile", "compiled DDP", "Lightning"])
def test_weights_of_recipes_are_read_as_those_of_export(kind, tmp_path):
    torch.manual_seed(0)
    published = build_model("torchvision:mobilenet_v2", num_classes=7).network
    torch.save(checkpoint_of(published, kind), tmp_path / "seven.ckpt")
    said: list[str] = []
    spec = build_model("torchvision:mobilenet_v2", num_classes=3)
    load_backbone(spec, tmp_path / "seven.ckpt", allow_missing=("head",), on_note=said.append)
    assert "stripped" in said[0]
    own, state = spec.network.state_dict(), published.state_dict()
    assert all(torch.equal(own[n], t) for n, t in state.items() if not n.startswith(spec.head))
    segmenter = build_model("lraspp_mobilenet_v2", {"inter_channels": 8}, num_classes=3)
    load_backbone(segmenter, tmp_path / "seven.ckpt")  # its names lack the prefix "features."
    first = segmenter.backbone.state_dict()["0.0.weight"]
    assert torch.equal(first, state["features.0.0.weight"])


def test_a_recipe_chooses_one_of_two_sets_of_weights(tmp_path):
    spec = build_model("cifar_resnet20", num_classes=3)
    state = spec.network.state_dict()
    averaged = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "two.pth")
    with pytest.raises(RecipeError, match=r"2 sets .*\(in a recipe, weights_key\), such as --weig"):
        load_backbone(spec, tmp_path / "two.pth")
    load_backbone(spec, tmp_path / "two.pth", key="model_ema")
    assert all(bool((p == 1).all()) for p in spec.network.parameters())
