import numpy as np
import pytest
import torch
from torch import nn

from dlcv.train.figures.filters import (
    filters_figure,
    first_convolution,
    principal_filters,
    stretched,
)
from dlcv.train.models import build_model


@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("small_cnn", {}, "layers.conv1"),
        ("torchvision:resnet18", {}, "conv1"),
        ("timm:vit_tiny_patch16_224", {"depth": 1}, "patch_embed.proj"),
        ("vit_conv_stem", {"depth": 1}, "patch_embed.backbone.conv1"),
    ],
)
def test_the_first_layer_is_the_one_that_sees_rgb(name, options, layer):
    found = first_convolution(build_model(name, options, num_classes=10).network)
    assert found is not None
    assert found[0] == layer


def test_a_network_without_convolutions_of_rgb_has_no_filters():
    assert first_convolution(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 2))) is None


def test_each_filter_is_stretched_to_its_own_range():
    filters = np.array([[-1.0, 0, 1], [2, 4, 3], [5, 5, 5]], np.float32)
    assert stretched(filters).tolist() == [[0, 0.5, 1], [0, 1, 0.5], [0, 0, 0]]


def test_principal_filters_span_what_the_filters_were_made_of():
    generator = torch.Generator().manual_seed(0)
    made_of = torch.linalg.qr(torch.randn(48, 2, generator=generator)).Q.T  # (2, 48)
    weights = torch.randn(100, 2, generator=generator) * torch.tensor([5.0, 1.0])
    filters = (weights @ made_of).reshape(100, 3, 4, 4).numpy()
    found, share = principal_filters(filters, 2)
    assert share == pytest.approx(1)
    lengths = (found.reshape(2, 48) @ made_of.T.numpy()) ** 2
    np.testing.assert_allclose(lengths.sum(axis=1), 1, rtol=1e-4)
    assert found.shape == (2, 3, 4, 4)
    assert (found.max(axis=(1, 2, 3)) == np.abs(found).max(axis=(1, 2, 3))).all()


def test_a_filter_is_drawn_without_smoothing():
    figure = filters_figure(np.random.default_rng(0).random((9, 3, 5, 5), np.float32), title="toy")
    assert len(figure.axes) == 16
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(drawn) == 9
    assert drawn[0].get_array().shape == (5, 5, 3)  # type: ignore[union-attr]
    assert {image.get_interpolation() for image in drawn} == {"nearest"}
