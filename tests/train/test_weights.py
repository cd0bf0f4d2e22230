import collections

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dlcv.runtime.errors import RecipeError
from dlcv.train.models import build_model
from dlcv.train.weights import load_backbone, load_weights, read_weights


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
        ("module.pth", "is not a weights file"),
    ):
        with pytest.raises(RecipeError, match=message):
            read_weights(tmp_path / name)


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
