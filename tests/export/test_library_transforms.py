"""Our preprocessing is the one of which timm and torchvision say that a network was trained with it.

The references are the libraries' own transforms, on Pillow images. Given decoded pixels, under 3 % of ours are rounded to
the other side, by 1 of 255; a JPEG may be scaled while it is decoded, which moves a pixel by 0.6 of 255 on average.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torchvision.models import get_model_weights

from dlcv.export.sources import ExportSource, SourceOptions, load_source
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths

MOST = 2e-2  # of a probability
WEIGHTS = {
    "timm:tf_efficientnet_lite0": "tf_efficientnet_lite0_imagenet.safetensors",
    "torchvision:mobilenet_v2@IMAGENET1K_V1": "mobilenet_v2_imagenet_deq.pth",
    "torchvision:squeezenet1_1": "squeezenet1_1_imagenet.pth",
}


Transform = Callable[[Image.Image], torch.Tensor]


def transform_of(spec: str) -> Transform:
    """Return what the library does to a Pillow image, to float32 (3, H, W)."""
    library, _, name = spec.partition(":")
    if library == "timm":
        config: dict[str, Any] = resolve_model_data_config(timm.create_model(name))
        return cast("Transform", create_transform(**config, is_training=False))
    name, _, entry = name.partition("@")
    weights: Any = get_model_weights(name)
    preset: Transform = (weights[entry] if entry else weights.DEFAULT).transforms()
    return preset


def ours(source: ExportSource, image: Any) -> torch.Tensor:
    """Return what a network of ours takes, as its graph computes it: float32 (3, H, W)."""
    pixels = load_pixels(image, source.preprocessing).pixels / 255.0
    normalised = (pixels - np.array(source.mean)) / np.array(source.std)
    return torch.from_numpy(normalised.transpose(2, 0, 1).astype(np.float32))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def probabilities(source: ExportSource, inputs: list[torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        answers: torch.Tensor = source.model(torch.stack(inputs)).softmax(dim=1)
    return answers


@pytest.mark.parametrize(
    "spec",
    [
        "timm:tf_efficientnet_lite0",  # bicubic, crop .875
        "timm:vit_tiny_patch16_224",  # crop .9: 248.9 pixels, rounded down
        "timm:mobilenetv4_conv_small",  # crop .95
        "torchvision:mobilenet_v2@IMAGENET1K_V1",  # 256
        "torchvision:mobilenet_v2@IMAGENET1K_V2",  # 232
        "torchvision:efficientnet_b0",  # bicubic
    ],
)
def test_decoded_pixels_are_prepared_as_the_library_does_it(spec: str) -> None:
    source = load_source(spec, SourceOptions(random=True))
    transform, std = transform_of(spec), torch.tensor(source.std).reshape(3, 1, 1)
    for path in sample_paths():
        image = opened(path)
        for sized in (image, image.rotate(90, expand=True), image.resize((731, 500))):
            steps = (ours(source, sized) - transform(sized)).abs() * 255 * std
            assert steps.max() < 1.01
            assert (steps > 0.5).float().mean() < 0.03


@pytest.mark.parametrize("spec", WEIGHTS)
def test_real_networks_give_the_same_answers_on_real_photos(
    spec: str, data_root: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with zipfile.ZipFile(data_root / "photos/imagenet_sample.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".jpg")][::6]
        archive.extractall(tmp_path, names)
    originals = sorted((data_root / "photos/originals").iterdir())
    paths = [*(tmp_path / name for name in names), *originals]
    source = load_source(spec, SourceOptions(weights=data_root / "weights" / WEIGHTS[spec]))
    transform = transform_of(spec)
    library = probabilities(source, [transform(opened(path)) for path in paths])
    received = probabilities(source, [ours(source, path) for path in paths])
    difference = (library - received).abs().max(dim=1).values
    record_property("largest difference", float(difference.max()))
    print(
        f"{spec}, {len(paths)} photos: largest difference of a probability {difference.max():.1e}, "
        f"median {difference.median():.1e}"
    )
    assert torch.equal(library.argmax(1), received.argmax(1))
    assert difference.max() < MOST
