"""Explanation maps from tensors that the network computes anyway."""

from __future__ import annotations

from torch import Tensor

from dlcv.train.attention.walk import relative_to_maximum


def class_activation_map(features: Tensor, weight: Tensor, logits: Tensor) -> Tensor:
    """Return the class activation map of the top class: (B, h, w) in 0..1, 1 where it is strongest.

    Zhou, Khosla, Lapedriza, Oliva, Torralba 2016, https://arxiv.org/abs/1512.04150. Differences: the bias is
    dropped, negative values are cut off (ReLU), and each map is divided by its maximum.

    features: (B, C, h, w); their mean over h and w is the input of the last linear layer. weight: (classes, C)
    of that layer. logits: (B, classes).
    """
    _, C, h, w = features.shape
    top = weight[logits.argmax(dim=1)]  # (B, C)
    scores = top.unsqueeze(1) @ features.reshape(-1, C, h * w)  # (B, 1, h * w)
    return relative_to_maximum(scores.relu().reshape(-1, h, w))
