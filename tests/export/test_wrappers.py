"""Wrappers declare outputs that are right by an independent computation, and leave models alone."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.transforms.functional import normalize

from dlcv.export.wrappers import Normalize, wrap_classifier
from dlcv.export.wrappers.maps import class_activation_map
from dlcv.export.wrappers.segmenter import SegmenterWrapper
from dlcv.runtime.bundle.schema import Task

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def wrapped(model, *, task: Task = "classify", size=(32, 32)):
    normalize = Normalize(MEAN, STD)
    if task == "segment":
        return SegmenterWrapper(model.eval(), normalize, classes=21).eval()
    return wrap_classifier(model.eval(), normalize=normalize, size=size).eval()


def photos(*, batch=3, size=(32, 32)):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator)


def normalised(image):
    pixels = image.permute(0, 3, 1, 2).float() / 255
    return normalize(pixels, list(MEAN), list(STD))


def answers(wrapper, image):
    with torch.inference_mode():
        return dict(zip(wrapper.output_names, wrapper(image), strict=True))


def attention_of_unfused_timm(model, image):
    """Record every layer's softmax with hooks on timm's own, un-fused attention: an independent way."""
    recorded = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *a: recorded.append(a[2]))
    with torch.inference_mode():
        model(normalised(image))
    return recorded


@pytest.mark.parametrize("name", ["vit", "cnn", "cifar_resnet"])
def test_probabilities_are_those_of_the_untouched_model(build, name):
    model, image = build(name), photos()
    with torch.inference_mode():
        expected = model(normalised(image)).softmax(1)
    torch.testing.assert_close(answers(wrapped(model), image)["probabilities"], expected)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("vit", ("probabilities", "embedding", "explanation", "attention")),
        ("cnn", ("probabilities", "embedding", "explanation")),
        ("cifar_resnet", ("probabilities", "embedding", "explanation")),
    ],
)
def test_a_network_gives_what_it_can(build, name, outputs):
    assert wrapped(build(name)).output_names == outputs


def test_wrapping_leaves_the_model_as_it_was(build):
    for name in ("vit", "cnn", "cifar_resnet"):
        model = build(name)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
        answers(wrapped(model), photos())
        torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
        assert not hooks
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    "options",
    [{}, {"qk_norm": True}, {"reg_tokens": 2}, {"init_values": 0.5}, {"no_embed_class": True}],
)
def test_attention_is_that_of_timm(build, options):
    model, image = build("vit", **options), photos()
    got = answers(wrapped(model), image)["attention"]
    prefix = model.num_prefix_tokens
    expected = attention_of_unfused_timm(model, image)[-1][:, :, 0, prefix:]
    torch.testing.assert_close(got.flatten(2), expected)
    assert got.shape == (3, 2, 4, 4)
    sums = got.sum(dim=(2, 3))
    assert (sums <= 1).all(), "the class token's attention to itself is left out"
    assert (sums > 0).all()


def test_embedding_of_a_vit_is_what_its_head_sees(build):
    model, image = build("vit"), photos()
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(normalised(image)), pre_logits=True)
    torch.testing.assert_close(answers(wrapped(model), image)["embedding"], expected)


def test_rollout_is_the_class_tokens_row_of_the_full_product(build):
    model, image = build("vit", reg_tokens=2), photos()
    got = answers(wrapped(model), image)["explanation"]
    product = torch.eye(3 + 16)
    for attention in attention_of_unfused_timm(model, image):
        product = (0.5 * attention.mean(1) + 0.5 * torch.eye(3 + 16)) @ product
    row = product[:, 0, 3:]
    torch.testing.assert_close(got.flatten(1), row / row.amax(1, keepdim=True))
    assert got.amax(dim=(1, 2)).tolist() == [1, 1, 1]


def test_torchvisions_vit_gives_its_own_attention():
    torch.manual_seed(0)
    model: Any = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=5,
    ).eval()  # fmt: skip
    nn.init.normal_(model.heads.head.weight)
    image = photos()
    got = answers(wrapped(model), image)
    layer, seen = model.encoder.layers[-1], []
    layer.ln_1.register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.inference_mode():
        logits = model(normalised(image))
        attention = layer.self_attention(*seen * 3, average_attn_weights=False)[1]
    torch.testing.assert_close(got["probabilities"], logits.softmax(1))
    torch.testing.assert_close(got["attention"].flatten(2), attention[:, :, 0, 1:])
    assert got["explanation"].shape == (3, 4, 4)


def test_the_mean_of_the_class_activation_map_is_the_logit_less_its_bias():
    torch.manual_seed(0)
    features, weight = (
        torch.rand(2, 8, 4, 4),
        torch.rand(5, 8),
    )  # all positive: ReLU changes nothing
    logits = features.mean((2, 3)) @ weight.T
    got = class_activation_map(features, weight, logits)
    scores = torch.einsum("bchw,bc->bhw", features, weight[logits.argmax(1)])
    torch.testing.assert_close(scores.mean((1, 2)), logits.amax(1))
    torch.testing.assert_close(got, scores / scores.amax((1, 2), keepdim=True))


def test_an_activation_map_that_speaks_only_against_the_class_is_zero():
    features, weight = torch.ones(1, 2, 3, 3), torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])
    got = class_activation_map(features, weight, torch.tensor([[-2.0, -4.0]]))
    assert got.tolist() == torch.zeros(1, 3, 3).tolist()


class MeanCnn(nn.Module):
    """A classifier written with functions, not modules."""

    def __init__(self, pool) -> None:
        super().__init__()
        self.conv, self.fc, self.pool = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), pool

    def forward(self, x):
        return self.fc(self.pool(self.conv(x)))


@pytest.mark.parametrize(
    ("pool", "mapped"),
    [
        (lambda x: x.mean((2, 3)), True),
        (lambda x: x.mean([-1, -2]), True),
        (lambda x: torch.mean(x, dim=(2, 3)), True),
        (lambda x: torch.flatten(nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1), True),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), True),
        (lambda x: x.amax((2, 3)), False),
        (lambda x: x.mean((2, 3)) ** 2, False),
    ],
)
def test_global_average_pooling_is_recognised_however_it_is_written(pool, mapped):
    torch.manual_seed(0)
    wrapper = wrapped(MeanCnn(pool).eval())
    assert ("explanation" in wrapper.output_names) == mapped
    assert answers(wrapper, photos())["embedding"].shape == (3, 8)


def test_a_network_that_ends_in_a_convolution_has_class_maps():
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    image = photos(size=(64, 64))
    got = answers(wrapped(model, size=(64, 64)), image)
    with torch.inference_mode():
        features = model.features(normalised(image))
        expected = model(normalised(image)).softmax(1)
    torch.testing.assert_close(got["probabilities"], expected)
    torch.testing.assert_close(got["embedding"], features.mean((2, 3)))
    assert got["explanation"].amax(dim=(1, 2)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "mapped"), [("test_resnet", True), ("test_convnext", False), ("test_vit", True)]
)
def test_other_classifiers_of_timm_go_through_its_uniform_interface(name, mapped):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    image = photos(size=(160, 160))
    wrapper = wrapped(model, size=(160, 160))
    got = answers(wrapper, image)
    with torch.inference_mode():
        expected = model(normalised(image)).softmax(1)
    torch.testing.assert_close(got["probabilities"], expected)
    assert ("explanation" in got) == mapped


def test_a_vit_without_a_class_token_is_a_plain_classifier(build):
    model = build("vit", global_pool="avg", class_token=False)
    assert wrapped(model).output_names == ("probabilities", "embedding")


def test_mask_and_confidence_are_those_of_softmax(build):
    model, image = build("segmenter"), photos(size=(32, 48))
    got = answers(wrapped(model, task="segment"), image)
    with torch.inference_mode():
        confidence, mask = model(normalised(image))["out"].softmax(1).max(1)
    assert got["mask"].dtype == torch.uint8
    assert (got["mask"] == mask).all()
    torch.testing.assert_close(got["confidence"], confidence)


def test_without_a_last_linear_layer_there_are_probabilities_alone():
    network = nn.Sequential(nn.Conv2d(3, 7, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    assert wrapped(network).graph_outputs == ("probabilities",)


def test_normalisation_is_that_of_torchvision():
    image = photos()
    torch.testing.assert_close(Normalize(MEAN, STD)(image), normalised(image))
