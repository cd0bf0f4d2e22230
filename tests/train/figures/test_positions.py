import numpy as np
import pytest
import torch
import torchvision

from dlcv.train.figures.positions import (
    grid_of_grids,
    position_embeddings,
    positions_figure,
    similarities,
)
from dlcv.train.models import build_model


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("timm:vit_tiny_patch16_224", {"depth": 1, "img_size": 64}, (4, 4, 192)),
        (
            "timm:vit_tiny_patch16_224",
            {"depth": 1, "img_size": [32, 64], "no_embed_class": True},
            (2, 4, 192),
        ),
        ("vit_conv_stem", {"depth": 1, "dim": 16, "image_size": 16}, (8, 8, 16)),
    ],
)
def test_a_vit_has_a_position_of_each_patch(name, options, shape):
    network = build_model(name, options, num_classes=3).network
    found = position_embeddings(network)
    assert found is not None
    assert found.shape == shape
    learned = network.get_parameter("pos_embed")[0, -1].tolist()
    assert found[-1, -1].tolist() == learned


def test_torchvisions_vit_has_positions_less_the_class_tokens():
    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64
    )
    found = position_embeddings(network)
    assert found is not None
    torch.testing.assert_close(
        torch.from_numpy(found).reshape(16, 32), network.encoder.pos_embedding[0, 1:].detach()
    )


def test_a_cnn_has_no_positions():
    assert position_embeddings(build_model("small_cnn", {}, num_classes=3).network) is None


def test_similarity_is_the_cosine():
    embeddings = np.array([[[1, 0], [0, 2]], [[-3, 0], [1, 1]]], np.float32)
    found = similarities(embeddings)
    np.testing.assert_allclose(found[0, 0], [[1, 0], [-1, 0.5**0.5]], atol=1e-6)
    np.testing.assert_allclose(found, found.transpose(2, 3, 0, 1), atol=1e-6)


def test_maps_lie_in_their_places_with_gaps():
    maps = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    laid = grid_of_grids(maps)
    assert laid.shape == (5, 7)
    np.testing.assert_equal(laid[:2, :3], maps[0, 0])
    np.testing.assert_equal(laid[3:, 4:], maps[1, 1])
    assert np.isnan(laid[2]).all()
    assert np.isnan(laid[:, 3]).all()


def test_rows_and_columns_are_numbered_and_there_is_one_colour_bar():
    likeness = similarities(np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32))
    figure = positions_figure(likeness, title="toy")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2"]
    assert axes.get_xticks().tolist() == [1, 5, 9]
    assert "cosine similarity" in bar.get_ylabel()
