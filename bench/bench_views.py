"""Two views of a batch for BYOL at once, against torchvision's transforms image by image."""

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from dlcv.train.byol.recipe import ViewConfig
from dlcv.train.byol.views import TwoViews

AREA, JITTER, SHARE, GREY = (0.2, 1.0), (0.8, 0.8, 0.8, 0.2), 0.8, 0.2


@pytest.mark.parametrize("how", ["a batch at once", "torchvision, image by image"])
def bench_views(benchmark: Any, how: str) -> None:
    """Make one view of 64 images of 24 pixels; compare the two rows."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.randint(0, 256, (64, 24, 24, 3), dtype=torch.uint8, generator=generator)
    config = ViewConfig(size=24, area=AREA, jitter=JITTER, jitter_share=SHARE, grayscale=GREY)
    jitter = v2.RandomApply([v2.ColorJitter(*JITTER)], SHARE)
    crop = v2.RandomResizedCrop(24, AREA)
    one = v2.Compose([crop, v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(GREY)])
    if how == "a batch at once":
        benchmark(lambda: TwoViews(config).view(batch, generator))
    else:
        benchmark(lambda: [one(image) for image in batch.permute(0, 3, 1, 2)])
