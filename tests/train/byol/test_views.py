import math

import pytest
import torch
from torchvision.transforms import v2

from dlcv.train.byol.recipe import ViewConfig
from dlcv.train.byol.views import TwoViews, blurred, boxed, jittered, turned


def images(count=16, side=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def planes(count=4, side=24):
    return images(count, side).permute(0, 3, 1, 2).float() / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def views(config, seed=0):
    batch = images()
    return TwoViews(config)(batch, torch.zeros(16), seeded(seed), torch.zeros(16))


FULL = ViewConfig(
    size=16, area=(0.2, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_share=0.8, grayscale=0.2, blur=0.5
)


def test_both_views_are_uint8_of_the_size_differ_and_are_a_function_of_the_generator():
    first, second = views(FULL)
    assert first.shape == second.shape == (16, 16, 16, 3)
    assert first.dtype == torch.uint8
    assert not torch.equal(first, second)
    again = views(FULL)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, views(FULL, seed=1)[0])


def test_nothing_asked_changes_nothing():
    first, second = views(ViewConfig(size=24, flip=0.0))
    assert torch.equal(first, images())
    assert torch.equal(second, images())


def test_a_share_is_of_the_images():
    gray, _ = views(ViewConfig(size=24, flip=0.0, grayscale=1.0))
    assert (gray == gray[..., :1]).all()
    some, _ = views(ViewConfig(size=24, flip=0.0, grayscale=0.5))
    changed = (some == some[..., :1]).flatten(1).all(1)
    assert 2 < changed.sum() < 14
    assert torch.equal(some[~changed], images()[~changed])
    mirrored, _ = views(ViewConfig(size=24, flip=1.0))
    assert torch.equal(mirrored, images().flip(2))


def test_without_a_box_an_image_is_resized_as_torchvision_does():
    expected = v2.functional.resize(planes(), [16, 16], antialias=True)
    resized = boxed(planes(), ViewConfig(size=16), generator=seeded())
    assert torch.allclose(resized, expected, atol=1e-5)


def test_a_box_stays_inside_and_has_the_area_asked_for():
    ramp = torch.linspace(0, 1, 64).expand(500, 3, 64, 64)  # each pixel says how far right it is
    boxes = boxed(ramp, ViewConfig(size=32, area=(0.25, 0.25)), generator=seeded())
    widths = (boxes[:, 0, 0, -1] - boxes[:, 0, 0, 0]) * 63 / 64 * 32 / 31
    assert widths.min() > 0.5 * math.sqrt(3 / 4) - 0.03
    assert widths.max() < 0.5 * math.sqrt(4 / 3) + 0.03
    lefts = boxes[:, 0, 0, 0]
    assert lefts.min() < 0.05
    assert lefts.max() > 0.45


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_blur_is_that_of_torchvision(sigma):
    config = ViewConfig(size=24, blur_kernel=5, blur_sigma=(sigma, sigma))
    expected = v2.functional.gaussian_blur(planes(), [5, 5], [sigma, sigma])
    assert torch.allclose(blurred(planes(), config, generator=seeded()), expected, atol=1e-5)


def test_brightness_and_saturation_are_those_of_torchvision():
    draws = 2 * torch.rand((4, 1, 1, 1, 1), generator=seeded()) - 1
    brightness = 1 + 0.4 * float(draws[0])
    changed = jittered(planes(1), (0.4, 0.0, 0.0, 0.0), generator=seeded())
    assert torch.allclose(
        changed, v2.functional.adjust_brightness(planes(1), brightness), atol=1e-5
    )
    saturation = 1 + 0.4 * float(draws[2])
    changed = jittered(planes(1), (0.0, 0.0, 0.4, 0.0), generator=seeded())
    expected = v2.functional.adjust_saturation(planes(1), saturation)
    assert torch.allclose(changed, expected, atol=2e-3)  # torchvision's luma has other digits
    contrast = 1 + 0.4 * float(draws[1])
    changed = jittered(planes(1), (0.0, 0.4, 0.0, 0.0), generator=seeded())
    expected = v2.functional.adjust_contrast(planes(1), contrast)
    assert torch.allclose(changed, expected, atol=2e-3)


def test_a_turn_of_the_hue_keeps_luma_and_grey_and_a_whole_one_everything():
    pixels = planes(2) * 0.2 + 0.4  # so that nothing is clipped
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    half = turned(pixels, torch.tensor([math.pi, 1.0]))
    assert torch.allclose((half * luma).sum(1), (pixels * luma).sum(1), atol=1e-3)
    assert (half - pixels).abs().mean() > 0.02
    assert torch.allclose(turned(pixels, torch.full((2,), 2 * math.pi)), pixels, atol=1e-4)
    grey = torch.full((1, 3, 4, 4), 0.3)
    assert torch.allclose(turned(grey, torch.tensor([2.0])), grey, atol=1e-3)
