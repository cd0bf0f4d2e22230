"""A checkpoint and its bundle score alike."""

import pytest
import torch

from dlcv.runtime.results import Classification
from dlcv.train.evaluate import count_in_top


def test_top_five_are_the_likeliest_five() -> None:
    logits = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6]] * 3)
    labels = torch.tensor([6, 2, 1])  # first, fifth, sixth
    assert count_in_top(logits, labels) == 2


@pytest.mark.parametrize("label", range(8))
def test_top_five_are_those_that_a_bundle_answers(label: int) -> None:
    from dlcv.runtime.bundle.schema import ClassInfo
    from dlcv.runtime.images import Frame

    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    result = Classification(
        source="a.png",
        frame=Frame(size=(8, 8), box=(0, 0, 8, 8)),
        engine="none",
        classes=tuple(ClassInfo(name=str(number)) for number in range(8)),
        probabilities=logits.softmax(dim=1)[0].numpy(),
    )
    answered = label in {found.index for found in result.top(5)}
    assert count_in_top(logits, torch.tensor([label])) == answered
