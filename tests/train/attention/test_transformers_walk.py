"""Walks through vision transformers of Hugging Face transformers give the library's own attention and logits."""

from typing import Any

import pytest
import torch

from dlcv.train.attention import walker_for
from dlcv.train.attention.transformers_vit import head, refusal

transformers = pytest.importorskip("transformers")
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "attn_implementation": "eager",
}


@pytest.mark.parametrize(
    ("family", "kind", "prefix"),
    [
        ("ViT", "ViTForImageClassification", 1),
        ("DeiT", "DeiTForImageClassification", 2),
        ("DeiT", "DeiTForImageClassificationWithTeacher", 2),
        ("Dinov2", "Dinov2ForImageClassification", 1),
        ("Dinov2WithRegisters", "Dinov2WithRegistersForImageClassification", 5),
    ],
)
def test_every_layers_attention_and_the_logits_are_the_librarys(
    family: str, kind: str, prefix: int
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SMALL, num_labels=3, initializer_range=0.3)
    network = getattr(transformers, kind)(config).eval()
    walk = walker_for(network)
    assert walk is not None
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        walked = walk(pixels)
        logits, embedding = head(network, walked.tokens)
        library = network(pixels, output_attentions=True)
    torch.testing.assert_close(logits, library.logits)
    torch.testing.assert_close(walked.weights, library.attentions[-1])
    for average, weights in zip(walked.averages, library.attentions, strict=True):
        torch.testing.assert_close(average, weights.mean(dim=1))
    assert walked.grid == (4, 4)
    attention = library.attentions[-1][:, :, 0, prefix:]
    torch.testing.assert_close(walked.attention().flatten(2), attention)
    assert embedding.shape == (2, 64 if "Dinov2" in family else 32)


def test_dinov2_is_walked_at_another_size_than_that_of_its_position_embeddings() -> None:
    config = transformers.Dinov2Config(**SMALL, num_labels=3)
    network = transformers.Dinov2ForImageClassification(config).eval()
    walk = walker_for(network)
    assert walk is not None
    pixels = torch.rand(1, 3, 48, 32)
    with torch.inference_mode():
        walked = walk(pixels)
        torch.testing.assert_close(head(network, walked.tokens)[0], network(pixels).logits)
    assert walked.rollout().shape == (1, 6, 4)


def test_other_networks_of_the_library_are_refused() -> None:
    resnet = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    )
    for network in (resnet, torch.nn.Linear(1, 1)):
        assert refusal(network) == "it is not a ViT, DeiT or DINOv2 of transformers that classifies"
