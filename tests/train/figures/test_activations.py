import numpy as np
import pytest
import torch
from PIL import Image

from dlcv.runtime.errors import InputError
from dlcv.runtime.images import Frame
from dlcv.train.figures.activations import (
    activations_figure,
    last_block,
    layer_outputs,
    liveliest,
    maps_of,
)
from dlcv.train.figures.photos import Photo
from dlcv.train.models import build_model


def outputs_of(name, size=32, **options):
    network = build_model(name, options, num_classes=10).network.eval()
    return network, layer_outputs(network, torch.zeros(1, 3, size, size))


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("small_cnn", 32, "layers.relu3"),
        ("torchvision:resnet18", 64, "layer4"),
        ("timm:efficientnet_b0", 64, "bn2"),
        ("cifar_resnet20", 32, "layer3"),
        ("lraspp_mobilenet_v2", 64, "backbone.17"),
    ],
)
def test_the_last_convolution_block_is_found(name, size, layer):
    assert last_block(*outputs_of(name, size)) == layer


def test_an_output_is_what_the_layer_gave_even_if_the_next_one_works_in_place():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU(inplace=True))
    pixels = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    outputs = layer_outputs(network, pixels)
    torch.testing.assert_close(outputs["0"], network[0](pixels))
    torch.testing.assert_close(outputs["1"], network[0](pixels).relu())
    assert not any(module._forward_hooks for module in network.modules())


def test_an_unknown_layer_is_one_sentence_with_near_names():
    _, outputs = outputs_of("small_cnn")
    message = r"--layer layers\.conv4: the network has no layer of this name; near it are layers\."
    with pytest.raises(InputError, match=message):
        maps_of(outputs, "layers.conv4")


def test_a_layer_like_no_other_points_to_the_summary():
    with pytest.raises(InputError, match="dlcv-train summary names them"):
        maps_of({"conv": torch.zeros(1)}, "XYZ")


def test_a_layer_that_gives_no_maps_is_refused_with_its_shape():
    _, outputs = outputs_of("small_cnn")
    with pytest.raises(InputError, match=r"layers\.linear1: expected maps .* gives \(1, 64\)"):
        maps_of(outputs, "layers.linear1")


def test_a_long_name_of_a_layer_keeps_its_end():
    photo = Photo(
        name="black", pixels=np.zeros((8, 8, 3), np.uint8), view=Image.new("RGB", (8, 8)),
        frame=Frame(size=(8, 8), box=(0, 0, 8, 8)),
    )  # fmt: skip
    maps = {"patch_embed.backbone.conv1": np.zeros((1, 2, 4, 4), np.float32), "conv": np.ones((1, 1, 4, 4), np.float32)}  # fmt: skip
    figure = activations_figure([photo], maps, title="toy")
    named = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert named == ["…ed.backbone.conv1", "conv"]
    channels = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("channel")]
    assert channels == ["channel 0", "channel 1", "channel 0"]


def test_channels_that_vary_are_drawn():
    maps = np.zeros((2, 4, 2, 2), np.float32)
    maps[:, 1, 0, 0], maps[0, 3, 0, 0], maps[:, 2] = 5, 9, 7
    assert liveliest(maps, 2) == [1, 3]
    assert liveliest(maps, 10) == [0, 1, 2, 3]
