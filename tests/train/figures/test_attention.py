import numpy as np
import pytest
import torch
from PIL import Image

from dlcv.runtime.images import Frame
from dlcv.train.attention import Walk
from dlcv.train.figures.attention import attention_figure
from dlcv.train.figures.photos import Photo


@pytest.mark.parametrize(("heads", "rows"), [(1, 1), (3, 2), (4, 2), (12, 4)])
def test_a_photo_has_rollout_mean_and_every_head(heads, rows):
    weights = torch.rand(2, heads, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(3)
    walked = Walk(
        tokens=torch.zeros(2, 5, 4), averages=(weights.mean(1),), weights=weights,
        prefix_tokens=1, grid=(2, 2),
    )  # fmt: skip
    photos = [
        Photo(
            name=f"photo {number}", pixels=np.zeros((8, 8, 3), np.uint8), view=Image.new("RGB", (16, 16)),
            frame=Frame(size=(8, 8), box=(0, 0, 8, 8)),
        )
        for number in (1, 2)
    ]  # fmt: skip
    figure = attention_figure(photos, walked, title="toy")
    titles = [axes.get_title() for axes in figure.axes]
    numbered = [f"head {number}" for number in range(1, heads + 1)]
    expected = ["photo 1", "last layer, mean of heads", "rollout", *numbered]
    assert titles[: len(expected)] == expected
    assert titles[len(expected)] == "photo 2"
    place = figure.axes[0].get_subplotspec()
    assert place is not None
    assert (place.rowspan.start, place.rowspan.stop) == (0, rows)
