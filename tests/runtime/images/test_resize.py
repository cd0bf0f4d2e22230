"""The one resize is what docs/bundle.md says, whatever Pillow is installed: exact halves, rows first and then columns."""

from typing import Any

import numpy as np
import pytest

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.images import input_size, load_pixels


def weights(length: int, count: int) -> np.ndarray[Any, Any]:
    """Weights of Pillow's bicubic filter, (count, length): fixed point of 22 bits, written anew from docs/bundle.md."""
    scale = length / count
    centres = (np.arange(count)[:, None] + 0.5) * scale
    t = np.abs((np.arange(length) - centres + 0.5) / max(scale, 1))
    near = (1.5 * t - 2.5) * t * t + 1
    far = -0.5 * (((t - 5) * t + 8) * t - 4)
    kernel = np.where(t < 1, near, np.where(t < 2, far, 0))
    fixed: np.ndarray[Any, Any] = np.rint(kernel / kernel.sum(1, keepdims=True) * 2**22)
    return fixed


def rounded(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.clip(np.floor(sums / 2**22 + 0.5), 0, 255)


def test_rows_are_filtered_first_also_of_tall_images() -> None:
    """From version 13 on, Pillow would filter the columns of this one first, and values would differ by up to 9."""
    image = np.random.default_rng(0).choice([0, 128, 255], (400, 60)).astype(np.uint8)
    preprocessing = Preprocessing(resize="stretch", size=(50, 40), resample="bicubic", channels=1)
    rows = rounded(image @ weights(60, 40).T)
    expected = rounded(weights(400, 50) @ rows)
    assert np.array_equal(load_pixels(image, preprocessing).pixels[..., 0], expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((856, 107), (480, 64)), ((11, 88), (64, 480)), ((1760, 396), (480, 112))],
)
def test_halves_go_to_the_even_multiple_though_floats_miss_them(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(resize="longest_side", size=(480, 360), multiple=8)
    assert input_size(size, preprocessing) == expected


def test_halves_of_a_letterbox_go_to_the_even_pixel() -> None:
    """1375 columns of 1600 rows become 192.5 where 1600 become 224."""
    preprocessing = Preprocessing(resize="letterbox", size=(224, 320), pad_at="end", pad=(9, 9, 9))
    pixels = load_pixels(np.full((1600, 1375, 3), 200, np.uint8), preprocessing).pixels
    assert (pixels[:, :192] == 200).all()
    assert (pixels[:, 192:] == 9).all()
