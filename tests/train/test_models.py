from typing import Any

import pytest
import torch
import torchvision
from timm.models.vision_transformer import Block, VisionTransformer

from dlcv.runtime.errors import RecipeError
from dlcv.train.data import load_dataset
from dlcv.train.models import build_model
from dlcv.train.modules import normalised
from dlcv.train.recipe import Recipe, load_recipe
from dlcv.train.weights import load_backbone, load_weights, read_weights


@pytest.mark.parametrize("low_stride", [4, 8])
def test_the_segmenter_gives_logits_at_any_input_size(low_stride):
    network = build_model(
        "lraspp_mobilenet_v2", {"low_stride": low_stride}, num_classes=11
    ).network.eval()
    for size in ((40, 72), (41, 50)):
        assert network(torch.zeros(1, 3, *size))["out"].shape == (1, 11, *size)


def test_the_segmenters_deep_features_are_at_stride_16():
    backbone = build_model("lraspp_mobilenet_v2", num_classes=11).backbone.eval()
    shapes = {name: tuple(y.shape) for name, y in backbone(torch.zeros(1, 3, 64, 64)).items()}
    assert shapes == {"low": (1, 32, 8, 8), "high": (1, 320, 4, 4)}


def test_the_transformer_is_timms_own_with_stock_blocks_and_16_by_16_tokens():
    network = build_model("vit_conv_stem", {"depth": 2}, num_classes=10).network
    assert type(network) is VisionTransformer
    assert [type(block) for block in network.blocks] == [Block, Block]
    assert network.patch_embed.grid_size == (16, 16)
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 257, 128)
    assert network.global_pool == "token"


@pytest.mark.parametrize("name", ["cifar10-vit", "camvid-lraspp"])
def test_the_shipped_networks_stay_small(name):
    recipe = load_recipe(name, Recipe)
    spec = build_model(recipe.model.name, recipe.model.options, num_classes=len(recipe.classes))
    limit = {"cifar10-vit": 1.5e6, "camvid-lraspp": 2.3e6}[name]
    assert sum(p.numel() for p in spec.network.parameters()) <= limit


def test_the_basic_cnn_has_the_parameters_that_convolution_arithmetic_gives():
    network: Any = build_model("small_cnn", num_classes=10).network
    counts = [
        sum(p.numel() for p in layer.parameters())
        for layer in network.layers.children()
        if any(True for _ in layer.parameters())
    ]
    convolutions = [(5 * 5 * taken + 1) * made for taken, made in ((3, 32), (32, 64), (64, 128))]
    side = 32
    for _ in range(3):
        side = ((side - 5 + 2 * 2) // 1 + 1) // 2  # (S - F + 2P) / stride + 1, then pooling
    linears = [(side * side * 128 + 1) * 64, (64 + 1) * 10]
    assert counts == convolutions + linears == [2_432, 51_264, 204_928, 131_136, 650]
    assert sum(counts) == 390_410


def test_the_variants_of_the_basic_cnn_add_what_they_say():
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "norm": {"batch_norm": True},
        "drop": {"dropout": 0.05},
    }
    networks: dict[str, Any] = {
        name: build_model("small_cnn", o, num_classes=10).network for name, o in options.items()
    }
    kinds = {name: [type(layer).__name__ for layer in n.layers] for name, n in networks.items()}
    assert kinds["plain"] == ["Conv2d", "ReLU", "MaxPool2d"] * 3 + [
        "Flatten",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert kinds["norm"].count("BatchNorm2d") == 3
    assert kinds["norm"][-2:] == ["Linear", "BatchNorm1d"]
    assert kinds["drop"][:4] == ["Conv2d", "ReLU", "MaxPool2d", "Dropout"]
    with pytest.raises(RecipeError, match="image_size must be a multiple of 8, not 30"):
        build_model("small_cnn", {"image_size": 30}, num_classes=10)


@pytest.mark.parametrize("name", ["fcn_vgg16", "fcn_mobilenet_v2"])
@pytest.mark.parametrize("stride", [32, 16, 8, 4])
def test_an_fcn_fuses_every_depth_down_to_its_stride(name, stride):
    network: Any = build_model(name, {"stride": stride, "hidden": 8}, num_classes=7).network.eval()
    finer = [s for s in (16, 8, 4) if s >= stride]
    assert list(network.scores) == [str(s) for s in finer]
    image = torch.zeros(1, 3, 72, 104)
    maps = network.backbone(image)
    for s in finer:
        assert (
            maps[str(s)].shape[-2:] == torch.Size([-(-72 // s), -(-104 // s)])
            or name == "fcn_vgg16"
        )
        assert maps[str(s)].shape[1] == network.scores[str(s)].in_channels
    assert network(image)["out"].shape == (1, 7, 72, 104)


def test_an_fcn_starts_with_the_coarse_scores_alone():
    torch.manual_seed(0)
    network: Any = build_model("fcn_mobilenet_v2", {"stride": 8}, num_classes=7).network.eval()
    image = torch.rand(1, 3, 64, 64)
    scores = network.head(network.backbone(image)["32"])
    for side in (4, 8, 64):
        scores = torch.nn.functional.interpolate(scores, size=(side, side), mode="bilinear")
    assert torch.allclose(network(image)["out"], scores, atol=1e-5)
    with pytest.raises(RecipeError, match="stride must be one of 32, 16, 8, 4, not 2"):
        build_model("fcn_vgg16", {"stride": 2}, num_classes=7)


@pytest.mark.parametrize("stride", [32, 4])
def test_an_fcn_takes_torchvisions_vgg16_weights(stride, tmp_path):
    state = torchvision.models.vgg16(weights=None).features.state_dict()
    weights = {f"features.{name}": tensor for name, tensor in state.items()}
    torch.save(weights | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    spec = build_model("fcn_vgg16", {"stride": stride, "hidden": 8}, num_classes=7)
    load_backbone(spec, tmp_path / "vgg16.pth")
    loaded = spec.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_unknown_models_and_options_are_refused():
    with pytest.raises(
        RecipeError, match="no model 'resnet9000'; models: small_cnn, conv4, cifar_resnet20"
    ):
        build_model("resnet9000", num_classes=10)
    with pytest.raises(RecipeError, match=r"refuses its options .*widht"):
        build_model("vit_conv_stem", {"widht": 3}, num_classes=10)
    with pytest.raises(RecipeError, match="low_stride must be one of"):
        build_model("lraspp_mobilenet_v2", {"low_stride": 2}, num_classes=10)


@pytest.mark.parametrize("depth", [20, 32])
def test_published_resnet_weights_give_their_accuracy(data_root, depth):
    recipe = load_recipe("cifar10-vit", Recipe)
    network = build_model(f"cifar_resnet{depth}", num_classes=10).network.eval()
    path = data_root / "weights" / f"cifar10_resnet{depth}.pth"
    load_weights(network, read_weights(path), source=path.name)
    dataset = load_dataset(recipe, data_root, split="test")
    with torch.inference_mode():
        logits = network(normalised(dataset.images[:500], recipe.normalization))
    assert (logits.argmax(1) == dataset.labels[:500]).float().mean() > 0.90
