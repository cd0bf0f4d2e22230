"""`docs/bundle.md` is enough to build a reader: here is one, written from it alone, in NumPy."""

import math

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.images import load_pixels

KERNELS = {
    "bilinear": (1, lambda t: 1 - t),
    "bicubic": (
        2,
        lambda t: (1.5 * t - 2.5) * t * t + 1 if t < 1 else (((t - 5) * t + 8) * t - 4) * -0.5,
    ),
    "lanczos": (3, lambda t: float(np.sinc(t) * np.sinc(t / 3))),
}


def region_and_target(size, preprocessing):
    (H, W), (h, w) = size, preprocessing.size
    if preprocessing.resize == "stretch":
        return (0, 0, W, H), (h, w)
    if preprocessing.resize == "center_crop":
        h1, w1 = round(h / preprocessing.crop_fraction), round(w / preprocessing.crop_fraction)
        if h1 / H >= w1 / W:
            H1, W1 = h1, max(w, math.floor(h1 * W / H))
        else:
            H1, W1 = max(h, math.floor(w1 * H / W)), w1
        rounded = round if preprocessing.crop_rounding == "even" else math.floor
        x, y = rounded((W1 - w) / 2), rounded((H1 - h) / 2)
        return (x * W / W1, y * H / H1, (x + w) * W / W1, (y + h) * H / H1), (h, w)
    if preprocessing.resize == "letterbox":
        s = min(h / H, w / W)
        return (0, 0, W, H), tuple(max(1, round(side * s)) for side in (H, W))
    s, multiple = max(h, w) / max(H, W), preprocessing.multiple
    return (0, 0, W, H), tuple(max(1, round(side * s / multiple)) * multiple for side in (H, W))


def resized_rows(pixels, b0, b1, *, n, filter_):
    """Resize along the second axis, as step 4 says."""
    length = pixels.shape[1]
    if (b0, b1) == (0, length) and n == length:
        return pixels
    S, kernel = KERNELS[filter_]
    scale = (b1 - b0) / n
    f = max(scale, 1)
    out = np.empty((len(pixels), n, pixels.shape[2]))
    for i in range(n):
        c = b0 + (i + 0.5) * scale
        x0 = max(0, math.floor(c - S * f + 0.5))
        x1 = min(length, math.floor(c + S * f + 0.5))
        distances = [abs((x - c + 0.5) / f) for x in range(x0, x1)]
        weights = np.array([kernel(t) if t < S else 0.0 for t in distances])
        out[:, i] = np.tensordot(weights / weights.sum(), pixels[:, x0:x1], axes=(0, 1))
    return np.clip(np.floor(out + 0.5), 0, 255)


def prepared(pixels, preprocessing):
    if preprocessing.channels == 1:
        pixels = grey(pixels)
    (left, top, right, bottom), (h, w) = region_and_target(pixels.shape[:2], preprocessing)
    filter_ = preprocessing.resample
    wide = resized_rows(pixels.astype(float), left, right, n=w, filter_=filter_)
    turned = resized_rows(wide.transpose(1, 0, 2), top, bottom, n=h, filter_=filter_)
    resized = turned.transpose(1, 0, 2)
    return pasted(resized, preprocessing) if preprocessing.resize == "letterbox" else resized


def grey(pixels):
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) // 65536)[..., None]


def pasted(image, preprocessing):
    (a, b), (h, w) = image.shape[:2], preprocessing.size
    pad = np.array(preprocessing.pad, np.uint8)[None, None]
    out = np.tile(grey(pad) if preprocessing.channels == 1 else pad, (h, w, 1)).astype(float)
    at_center = preprocessing.pad_at == "center"
    y, x = ((h - a) // 2, (w - b) // 2) if at_center else (0, 0)
    out[y : y + a, x : x + b] = image
    return out


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "settings",
    [
        {"resize": "stretch", "size": (32, 32)},
        {"resize": "stretch", "size": (90, 200)},  # larger
        {"resize": "center_crop", "size": (32, 32), "crop_fraction": 0.875},
        {"resize": "center_crop", "size": (20, 48)},
        {"resize": "center_crop", "size": (33, 31), "crop_rounding": "down", "channels": 1},
        {"resize": "letterbox", "size": (40, 40), "pad": (9, 99, 199)},
        {"resize": "letterbox", "size": (80, 33), "pad_at": "end", "channels": 1, "pad": (1, 2, 3)},
        {"resize": "longest_side", "size": (48, 48), "multiple": 8},
        {"resize": "longest_side", "size": (97, 61)},  # the image's own size: nothing to do
    ],
)
def test_a_reader_written_from_the_specification_sees_the_same_pixels(settings, resample):
    preprocessing = Preprocessing(**settings, resample=resample)
    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    ours = load_pixels(Image.fromarray(pixels), preprocessing).pixels
    theirs = prepared(pixels, preprocessing)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.02  # halves: Pillow's weights have 22 bits
