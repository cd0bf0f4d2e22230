"""Walks through vision transformers give the networks' own attention; export's wrappers prove the rest."""

from typing import Any

import pytest
import timm
import torch
import torchvision

from dlcv.train.attention import FAMILIES, walker_for
from dlcv.train.attention.walk import class_token_rollout, relative_to_maximum
from dlcv.train.models import build_model


def test_rollout_of_uniform_attention_is_even():
    uniform = torch.full((2, 5, 5), 0.2)
    rollout = class_token_rollout([uniform] * 3, prefix_tokens=1, grid=(2, 2))
    torch.testing.assert_close(rollout, torch.ones(2, 2, 2))


def test_rollout_follows_a_token_through_the_layers():
    """The class token reads patch 1, which had read patch 2: a quarter each, by hand."""
    reads_1, reads_2 = torch.eye(3), torch.eye(3)
    reads_1[0], reads_2[1] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    rollout = class_token_rollout([reads_2[None], reads_1[None]], prefix_tokens=1, grid=(1, 2))
    torch.testing.assert_close(rollout, torch.tensor([[[1.0, 1.0]]]))


def test_a_map_of_zeros_stays_so():
    maps = torch.tensor([[[0.0, 0.0]], [[1.0, 4.0]]])
    assert relative_to_maximum(maps).tolist() == [[[0, 0]], [[0.25, 1]]]


def test_our_vit_on_a_convolutional_stem_gives_the_attention_of_every_head():
    torch.manual_seed(0)
    options = {"dim": 16, "depth": 2, "heads": 2, "blocks_per_stage": 1, "image_size": 16}
    model: Any = build_model("vit_conv_stem", options, num_classes=3).network.eval()
    recorded = []
    model.blocks[-1].attn.attn_drop.register_forward_hook(lambda *a: recorded.append(a[2]))
    pixels = torch.rand(2, 3, 16, 16)
    walk = walker_for(model)
    assert walk is not None
    with torch.inference_mode():
        walked, _ = walk(pixels), model(pixels)
    assert walked.grid == (8, 8)
    torch.testing.assert_close(walked.attention().flatten(2), recorded[0][:, :, 0, 1:])
    assert walked.rollout().shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (torch.nn.Linear(1, 1), "it is not timm's VisionTransformer"),
        (
            timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, global_pool="avg"),
            "its head does not see a class token",
        ),
    ],
)
def test_a_network_without_a_class_token_is_refused_with_the_reason(model, reason):
    assert FAMILIES[0].refusal(model) == reason
    assert walker_for(model) is None


def test_torchvisions_vit_is_walked():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64
    ).eval()
    walk = walker_for(model)
    assert walk is not None
    assert walk(torch.rand(1, 3, 32, 32)).attention().shape == (1, 2, 4, 4)
