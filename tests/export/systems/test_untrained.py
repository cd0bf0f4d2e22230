"""Random weights give answers that depend on the image, and are the same each time."""

import pytest
import torch

from dlcv.export.systems.untrained import scale_layers, untrained_source
from dlcv.train.models import build_model
from dlcv.train.recipe import Recipe, load_recipe


@pytest.fixture
def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fcn():
    torch.manual_seed(0)
    return build_model(
        "fcn_mobilenet_v2", {"stride": 4, "hidden": 16}, num_classes=5
    ).network.eval()


def test_no_class_wins_by_its_bias_and_skips_count(fcn, images):
    with torch.no_grad():
        assert not fcn.scores["4"].weight.any()
        scale_layers(fcn, images, classes=5)
        logits = fcn(images)["out"]
        assert fcn.scores["4"].weight.any()
    shares = torch.bincount(logits.argmax(1).flatten(), minlength=5) / logits[:, 0].numel()
    assert shares.max() < 0.6
    assert logits.std() > 0.3


def test_batch_norm_measures_the_images(fcn, images):
    with torch.no_grad():
        scale_layers(fcn, images, classes=5)
        norm = fcn.backbone["0"][1]
        seen = fcn.backbone["0"][0](images)
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert (norm.momentum, norm.training) == (0.1, False)


def test_a_network_without_batch_norm_keeps_its_scale_through_all_layers(images):
    torch.manual_seed(0)
    network = build_model("fcn_vgg16", {"hidden": 16}, num_classes=5).network.eval()
    with torch.no_grad():
        before = network(images)["out"].std()
        scale_layers(network, images, classes=5)
        after = network(images)["out"].std()
    assert 0.3 < after < 3
    assert before < after / 2


def test_the_weights_are_the_same_each_time(tmp_path):
    recipe = load_recipe("cifar10-net2", Recipe)
    first = untrained_source(recipe, tmp_path / "a")
    second = untrained_source(recipe, tmp_path / "b")
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert "random weights (seed 0)" in first.origin
    assert "the answers mean nothing" in first.limits[0]
