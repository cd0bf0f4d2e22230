"""Pixels reach the network as the options say: checked by hand on a graph that gives what it took."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from dlcv.export.onnx_import import Scaling
from dlcv.runtime.engines import load_engine

COLOUR = np.array([200, 100, 20])  # red, green, blue
GREY = 0.299 * 200 + 0.587 * 100 + 0.114 * 20
IMAGENET = Scaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Scaling(scale=1, mean=(104, 117, 123))

CASES: dict[str, Any] = {
    "pixels in 0..1": ({}, {}, COLOUR / 255),
    "ImageNet": (
        {},
        {"scaling": IMAGENET},
        (COLOUR / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    ),
    "-1..1": ({}, {"scaling": Scaling(mean=(0.5,), std=(0.5,))}, COLOUR / 127.5 - 1),
    "Caffe": (
        {},
        {"scaling": CAFFE, "channels": "bgr"},
        np.array([20 - 104, 100 - 117, 200 - 123]),
    ),
    "channels last": ({"nhwc": True}, {"scaling": IMAGENET, "channels": "bgr"}, None),
    "half precision": ({"kind": TensorProto.FLOAT16}, {}, COLOUR / 255),
    "one channel": (
        {"channels": 1, "shape": (1, 1, 8, 8)},
        {"scaling": Scaling(scale=1)},
        [GREY],
    ),
    "batch of 1": ({"shape": (1, 3, 8, 8)}, {}, COLOUR / 255),
    "any size": ({"shape": ("N", 3, "H", "W")}, {"size": (8, 8)}, COLOUR / 255),
    "opset 7, constants as inputs": ({"opset": 7, "ir": 3, "listed": True}, {}, COLOUR / 255),
    "opset 21": ({"opset": 21}, {}, COLOUR / 255),
}


@pytest.mark.parametrize("case", CASES)
def test_the_network_takes_what_the_options_say(files, importing, case):
    written, options, expected = CASES[case]
    if expected is None:  # channels last, in the order blue, green, red
        expected = (COLOUR[::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    bundle = importing(files.means(**written), **options)
    image = np.broadcast_to(COLOUR.astype(np.uint8), (3, 8, 8, 3)).copy()
    with load_engine(bundle, "ort") as engine:
        outputs = engine.infer({"image": image})
    tolerance = 2e-3 if "half" in case else 1e-5
    np.testing.assert_allclose(outputs["embedding"], [expected] * 3, rtol=tolerance, atol=tolerance)
    powers = np.exp(2 * (np.array(expected) - np.max(expected)))
    if len(powers) > 1:
        np.testing.assert_allclose(
            outputs["probabilities"],
            [powers / powers.sum()] * 3,
            rtol=10 * tolerance,
            atol=tolerance,
        )


def test_uint8_pixels_are_taken_as_they_are(files, importing):
    from onnx import helper

    cast = helper.make_node("Cast", ["input:0"], ["floats"], to=TensorProto.FLOAT)
    pool = helper.make_node("GlobalAveragePool", ["floats"], ["pooled"])
    flat = helper.make_node("Flatten", ["pooled"], ["out/scores"])
    path = files.write([cast, pool, flat], kind=TensorProto.UINT8, gives=TensorProto.FLOAT)
    bundle = importing(path, task="embed", scaling=Scaling(scale=1), output="out/scores")
    with load_engine(bundle, "ort") as engine:
        outputs = engine.infer({"image": np.full((1, 8, 8, 3), 7, np.uint8)})
    np.testing.assert_allclose(outputs["embedding"], [[7, 7, 7]])


def test_the_precision_is_that_of_the_file(files, importing):
    bundle = importing(files.means(kind=TensorProto.FLOAT16))
    assert bundle.graph().default_precision == "fp16"
    assert bundle.variant().file == "model.fp16.onnx"
