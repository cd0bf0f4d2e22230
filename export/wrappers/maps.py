"""Maps that explain an answer, from tensors that the network computes anyway."""

from __future__ import annotations

from torch import Tensor

from dlcv.train.attention.walk import relative_to_maximum


def class_activation_map(features: Tensor, weight: Tensor, logits: Tensor) -> Tensor:
    """Return the class activation map of the top class: (B, h, w) in 0..1, 1 where it is strongest.

    Zhou, Khosla, Lapedriza, Oliva, Torralba 2016, https://arxiv.org/abs/1512.04150. We drop the
    bias, keep what speaks for the class (ReLU) and divide by the maximum of each image.

    features: (B, C, h, w), whose mean over h and w the last linear layer sees.
    weight: (classes, C) of that layer. logits: (B, classes).
    """
    _, C, h, w = features.shape
    top = weight[logits.argmax(dim=1)]  # (B, C)
    scores = top.unsqueeze(1) @ features.reshape(-1, C, h * w)  # (B, 1, h * w)
    return relative_to_maximum(scores.relu().reshape(-1, h, w))
