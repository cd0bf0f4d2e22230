"""Networks of timm and torchvision by name, their heads, and where their weights come from."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from dlcv.runtime.errors import RecipeError
from dlcv.train.models import build_model
from dlcv.train.models.spec import BACKBONE, ModelSpec
from dlcv.train.optim import optimizer_for
from dlcv.train.recipe import builtin_recipes, load_recipe
from dlcv.train.settings import OptimizerConfig
from dlcv.train.tasks import task_kind
from dlcv.train.weights import load_backbone, load_pretrained

HEAD = {"hidden": [8, 4], "dropout": 0.2}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision:resnet18", {}),
        ("torchvision:mobilenet_v2", {"head": HEAD}),
        ("timm:efficientnet_b0", {"head": HEAD}),
        ("timm:vit_tiny_patch16_224", {"img_size": 32, "depth": 1, "head": HEAD}),
    ],
)
def test_classifiers_of_the_libraries_get_a_head_of_the_classes(name, options):
    spec = build_model(name, options, num_classes=5)
    assert spec.network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    head = [n for n in spec.network.state_dict() if n.startswith(spec.head)]
    assert len(head) == (6 if "head" in options else 2)


def test_a_head_of_three_layers_has_two_relus_and_two_dropouts():
    network: Any = build_model("torchvision:resnet18", {"head": HEAD}, num_classes=5).network
    kinds = [type(layer) for layer in network.fc]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [layer.out_features for layer in network.fc if isinstance(layer, nn.Linear)] == [8, 4, 5]
    assert network.fc[2].p == 0.2


def test_attention_is_not_fused_so_that_it_can_be_shown():
    options = {"img_size": 32, "depth": 2}
    network: Any = build_model("timm:vit_tiny_patch16_224", options, num_classes=5).network
    assert [block.attn.fused_attn for block in network.blocks] == [False, False]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "keras:resnet",
            r"no model 'keras:resnet'; models: .*timm:NAME, torchvision:NAME, smp:NAME, py:",
        ),
        ("timm:resnet9000", "timm has no model 'resnet9000'"),
        ("torchvision:r3d_18", "torchvision has no classifier or segmenter 'r3d_18'"),
        ("torchvision:squeezenet1_1", "does not end in one linear layer"),
    ],
)
def test_other_networks_are_refused(name, reason):
    with pytest.raises(RecipeError, match=reason):
        build_model(name, num_classes=5)


def test_weights_of_other_classes_need_leave_to_do_without_the_head(tmp_path):
    torch.manual_seed(0)
    published = torchvision.models.mobilenet_v2(num_classes=7).state_dict()
    torch.save(published, tmp_path / "seven.pth")
    spec = build_model("torchvision:mobilenet_v2", num_classes=5)
    with pytest.raises(RecipeError, match=r"2 of another shape: classifier.1.weight \(7x1280 inst"):
        load_backbone(spec, tmp_path / "seven.pth")
    staying = load_backbone(spec, tmp_path / "seven.pth", allow_missing=("head",))
    assert staying == ["classifier.1.weight", "classifier.1.bias"]
    own = spec.network.state_dict()
    assert all(torch.equal(own[n], t) for n, t in published.items() if n not in staying)
    published.pop("features.0.0.weight")
    torch.save(published, tmp_path / "damaged.pth")
    with pytest.raises(RecipeError, match=r"1 missing: features\.0\.0\.weight$"):
        load_backbone(spec, tmp_path / "damaged.pth", allow_missing=("head",))


def test_published_weights_go_in_without_their_head():
    torch.manual_seed(0)
    network, other = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 9))
    bare = ModelSpec(network=network, backbone=network)
    with pytest.raises(RecipeError, match="nobody publishes weights of mine; set pretrained to"):
        load_pretrained(bare, name="mine")
    spec = ModelSpec(network=network, backbone=network, head=("0.",), pretrained=other.state_dict)
    assert load_pretrained(spec, name="mine") == ["0.weight", "0.bias"]


def test_a_download_that_fails_is_one_sentence_with_the_way_around(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    spec = build_model("torchvision:resnet18", num_classes=5)
    with pytest.raises(RecipeError, match=r"resnet18 could not be had \(no route\); retry"):
        load_pretrained(spec, name="torchvision:resnet18")


def test_the_head_learns_at_the_full_rate_and_the_rest_slower():
    spec = build_model("torchvision:resnet18", num_classes=5)
    config = OptimizerConfig(lr=1.0, backbone_lr_scale=0.1)
    optimizer = optimizer_for(spec.network, config, backbone=spec.backbone, head=spec.head)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in spec.network.named_parameters()}
    assert {n for n, rate in named.items() if rate == 1.0} == {"fc.weight", "fc.bias"}
    assert named["conv1.weight"] == pytest.approx(0.1)


def test_deeplabv3_on_resnet50_takes_resnet50s_weights_and_has_an_auxiliary_output(tmp_path):
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    spec = build_model("deeplabv3_resnet50", num_classes=3)
    assert load_backbone(spec, tmp_path / "resnet50.pth") == []
    outputs = spec.network.eval()(torch.zeros(1, 3, 40, 48))
    assert {n: y.shape for n, y in outputs.items()} == dict.fromkeys(("out", "aux"), (1, 3, 40, 48))


def test_deeplabv3_on_mobilenet_has_an_auxiliary_output_if_asked_for():
    with_aux = build_model("deeplabv3_mobilenet_v2", {"aux": True}, num_classes=3).network.eval()
    outputs = with_aux(torch.zeros(1, 3, 64, 96))
    assert {n: y.shape for n, y in outputs.items()} == dict.fromkeys(("out", "aux"), (1, 3, 64, 96))
    without = build_model("deeplabv3_mobilenet_v2", num_classes=3).network.state_dict()
    assert set(with_aux.state_dict()) - set(without) == {
        name for name in with_aux.state_dict() if name.startswith("aux_classifier.")
    }


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_recipes_network_can_be_built_and_frozen_as_it_says(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        spec = task_kind(recipe.task).network(recipe)
    names = [n for n, _ in spec.network.named_parameters()]
    for prefix in recipe.freeze:
        assert prefix == BACKBONE or any(n.startswith(prefix) for n in names), prefix
    assert spec.pretrained is not None or not recipe.pretrained
    assert spec.head or "head" not in recipe.allow_missing
