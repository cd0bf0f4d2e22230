"""The resize inside the graph gives Pillow's pixels: every way to resize, every filter, odd sizes."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dlcv.export.any_size.resize import add_resize, border_color
from dlcv.export.onnx_import.nodes import Nodes
from dlcv.runtime.bundle.schema import Preprocessing, Resample, TensorSpec
from dlcv.runtime.engines import EngineModel, EngineOptions, engine_entry
from dlcv.runtime.engines.base import Engine
from dlcv.runtime.images import input_size, load_pixels
from dlcv.runtime.images.samples import sample_paths

FILTERS: list[Resample] = ["bilinear", "bicubic", "lanczos"]
WAYS: dict[str, dict[str, Any]] = {
    "stretch": {"resize": "stretch", "size": (40, 56)},
    "crop": {"resize": "center_crop", "size": (48, 48)},
    "crop of a part": {"resize": "center_crop", "size": (48, 40), "crop_fraction": 0.875},
    "crop, halves down": {
        "resize": "center_crop",
        "size": (33, 48),
        "crop_fraction": 0.9,
        "crop_rounding": "down",
    },
    "letterbox": {"resize": "letterbox", "size": (48, 64), "pad": (114, 20, 200)},
    "letterbox at the end": {
        "resize": "letterbox",
        "size": (64, 33),
        "pad": (1, 2, 3),
        "pad_at": "end",
    },
    "longest side": {"resize": "longest_side", "size": (64, 64), "multiple": 8},
    "longest side, any": {"resize": "longest_side", "size": (60, 45)},
}
SIZES = [
    (1, 1),
    (1, 300),
    (300, 1),
    (2, 3),
    (7, 500),
    (301, 5),
    (40, 56),
    (48, 48),
    (49, 97),
    (33, 64),
    (123, 457),
    (457, 123),
    (640, 500),
    (611, 1024),
]


def resize_model(preprocessing: Preprocessing) -> bytes:
    """A graph from `image` to `resized`, nothing else."""
    nodes = Nodes("any_size/")
    pixels = add_resize(nodes, "image", preprocessing=preprocessing)
    nodes.add("Cast", pixels, output="resized", to=TensorProto.UINT8)
    channels = preprocessing.channels
    graph = helper.make_graph(
        nodes.nodes,
        "resize",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.UINT8, [1, "height", "width", channels]
            )
        ],
        [helper.make_tensor_value_info("resized", TensorProto.UINT8, [1, "h", "w", channels])],
        nodes.constants,
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


@cache
def resizer(preprocessing: Preprocessing, engine: str) -> Engine:
    if engine == "openvino":
        pytest.importorskip("openvino")
    tensors = tuple(
        TensorSpec(name=name, dtype="uint8", shape=(1, *sides, preprocessing.channels))
        for name, sides in (("image", ("height", "width")), ("resized", ("h", "w")))
    )
    settings = {"cache": "false"} if engine == "openvino" else {}
    model = EngineModel(onnx=resize_model(preprocessing), tensors=tensors)
    return engine_entry(engine).engine_class()(model, EngineOptions(threads=1, settings=settings))


def photo(size: tuple[int, int], channels: int = 3) -> np.ndarray[Any, Any]:
    """Noise on a slope, with black and white in it, where filters overshoot: uint8 (H, W, C)."""
    random = np.random.default_rng(size)
    slope = np.linspace(0, 255, size[0] * size[1] * channels).reshape(*size, channels)
    noise = random.normal(0, 60, slope.shape)
    return (slope + noise).clip(0, 255).astype(np.uint8)


def differences(
    preprocessing: Preprocessing, pixels: np.ndarray[Any, Any], *, engine: str = "ort"
) -> np.ndarray[Any, Any]:
    expected = load_pixels(pixels, preprocessing).pixels[None]
    received = resizer(preprocessing, engine).infer({"image": pixels[None]})["resized"]
    assert received.shape == expected.shape
    difference: np.ndarray[Any, Any] = np.abs(received.astype(int) - expected.astype(int))
    return difference


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("way", WAYS)
def test_pixels_are_those_of_the_host(way: str, resample: Resample, engine: str) -> None:
    preprocessing = Preprocessing(resample=resample, **WAYS[way])
    for size in SIZES:
        difference = differences(preprocessing, photo(size), engine=engine)
        assert difference.max() <= 1, (size, difference.max())


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("way", [name for name in WAYS if "crop" not in name])
def test_bilinear_pixels_of_a_whole_image_are_equal_to_the_last_bit(way: str, engine: str) -> None:
    preprocessing = Preprocessing(**WAYS[way])
    for size in SIZES:
        assert not differences(preprocessing, photo(size), engine=engine).any(), size


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_numbers_beyond_32_bits_do_no_harm(engine: str) -> None:
    """An image of one row and 12,000 columns is 3 million columns wide before it is cropped."""
    preprocessing = Preprocessing(resize="center_crop", size=(224, 224), crop_fraction=0.875)
    for size in ((1, 12_000), (3, 9_000), (4_000, 1)):
        assert differences(preprocessing, photo(size), engine=engine).max() <= 1, size


@pytest.mark.parametrize("resample", FILTERS)
def test_what_lies_beyond_the_filter_counts_nothing_in_a_large_image(resample: Resample) -> None:
    """Sides without common divisors, to which numbers of 24 binary digits do not do."""
    for size, target in (((61, 3001), (31, 2999)), ((2003, 37), (1009, 41))):
        preprocessing = Preprocessing(resize="stretch", size=target, resample=resample)
        difference = differences(preprocessing, photo(size))
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_grey_pixels_are_those_of_the_host(way: str) -> None:
    preprocessing = Preprocessing(channels=1, **WAYS[way])
    for size in SIZES:
        difference = differences(preprocessing, photo(size, channels=1))
        assert difference.max() <= 1, size


@pytest.mark.parametrize("resample", FILTERS)
def test_hardly_a_pixel_of_a_photo_differs_and_the_mean_stays(resample: Resample) -> None:
    preprocessing = Preprocessing(
        resize="center_crop", size=(224, 224), crop_fraction=0.875, resample=resample
    )
    for path in sample_paths():
        pixels = load_pixels(path, Preprocessing(resize="stretch", size=(501, 667))).pixels
        expected = load_pixels(pixels, preprocessing).pixels.astype(int)
        received = resizer(preprocessing, "ort").infer({"image": pixels[None]})["resized"][0]
        assert np.mean(received != expected) < 0.002
        assert abs(np.mean(received - expected)) < 0.001


def test_an_image_of_the_targets_size_stays_as_it_is() -> None:
    for resample in FILTERS:
        preprocessing = Preprocessing(resize="stretch", size=(30, 20), resample=resample)
        pixels = photo((30, 20))
        received = resizer(preprocessing, "ort").infer({"image": pixels[None]})["resized"]
        assert np.array_equal(received[0], pixels)


def test_the_border_has_its_colour_and_the_image_its_place() -> None:
    preprocessing = Preprocessing(**WAYS["letterbox"])
    white = np.full((10, 40, 3), 255, np.uint8)
    received = resizer(preprocessing, "ort").infer({"image": white[None]})["resized"][0]
    assert (received[:16] == (114, 20, 200)).all()
    assert (received[16:32] == 255).all()
    assert (received[32:] == (114, 20, 200)).all()
    assert border_color(preprocessing) == (114, 20, 200)
    assert border_color(Preprocessing(channels=1, **WAYS["letterbox"])) == (69,)


MORE_WAYS = [
    *(WAYS[way] for way in ("crop of a part", "crop, halves down", "letterbox")),
    {"resize": "longest_side", "size": (512, 512), "multiple": 32},
    {"resize": "longest_side", "size": (96, 72), "multiple": 8},
    {"resize": "longest_side", "size": (90, 90)},
]


@pytest.mark.parametrize("way", MORE_WAYS, ids=str)
def test_sizes_and_places_are_those_of_the_host_for_two_hundred_shapes(way: dict[str, Any]) -> None:
    """Half of the shapes have sides in simple proportion, where halves of pixels are to be rounded."""
    preprocessing = Preprocessing(**way)
    random = np.random.default_rng(3)
    for number in range(200):
        height, width = random.integers(1, 400, 2).tolist()
        if number % 2:
            height, width = 20 * (height % 32 + 1), 20 * (width % 32 + 1)
        difference = differences(preprocessing, photo((height, width)))
        assert difference.shape[1:3] == input_size((height, width), preprocessing)
        assert difference.max() <= 1, (height, width)
