"""Scores of pixels become a mask and its confidence, at the size of the input."""

import numpy as np
import onnx
import pytest
from onnx import helper

from dlcv.runtime.engines import load_engine

make = helper.make_node
RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def quarters(height=16, width=24):
    """Red and green above, blue and black below: classes 0, 1 and 2, 3."""
    image = np.zeros((1, height, width, 3), np.uint8)
    image[:, : height // 2, : width // 2] = RED
    image[:, : height // 2, width // 2 :] = GREEN
    image[:, height // 2 :, : width // 2] = BLUE
    mask = np.zeros((1, height, width), np.uint8)
    mask[:, : height // 2, width // 2 :] = 1
    mask[:, height // 2 :, : width // 2] = 2
    mask[:, height // 2 :, width // 2 :] = 3
    return image, mask


def infer(bundle, image):
    with load_engine(bundle, "ort") as engine:
        return engine.infer({"image": image})


SURE = np.exp(10) / (np.exp(10) + np.exp(5) + 2)  # of red, green and blue
DARK = np.exp(5) / (np.exp(5) + 3)  # of black
TAILS = {
    "logits": (),
    "probabilities": (make("Softmax", ["maps"], ["out/scores"], axis=1),),
    "channels last": (make("Transpose", ["maps"], ["out/scores"], perm=[0, 2, 3, 1]),),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("batch", ["N", 1])
def test_scores_become_a_mask(files, importing, tail, batch):
    bundle = importing(files.colours(*TAILS[tail], shape=(batch, 3, 16, 24)), task="segment")
    image, mask = quarters()
    outputs = infer(bundle, np.concatenate([image, image[:, ::-1]]))
    np.testing.assert_array_equal(outputs["mask"], np.concatenate([mask, mask[:, ::-1]]))
    expected = np.where(mask[0] == 3, DARK, SURE)
    np.testing.assert_allclose(outputs["confidence"][0], expected, rtol=1e-5)


def test_smaller_scores_are_brought_to_the_size_of_the_input(files, importing):
    bundle = importing(files.colours(pooled=True), task="segment")
    assert [str(spec) for spec in bundle.graph().outputs] == [
        "mask: uint8 (batch, 16, 24)",
        "confidence: float32 (batch, 16, 24)",
    ]
    image, mask = quarters()
    found = infer(bundle, image)["mask"]
    assert (found == mask).mean() > 0.9
    inner = (slice(None), slice(1, 6), slice(1, 10))
    np.testing.assert_array_equal(found[inner], mask[inner])


def test_any_size_stays_any_size_with_longest_side(files, importing):
    path = files.colours(pooled=True, shape=("N", 3, "H", "W"))
    bundle = importing(path, task="segment", size=(48, 48), resize="longest_side", multiple=8)
    assert str(bundle.graph().inputs[0]) == "image: uint8 (batch, height, width, 3)"
    for size in ((16, 24), (40, 8)):
        image, mask = quarters(*size)
        found = infer(bundle, image)["mask"]
        assert found.shape == mask.shape
        assert (found == mask).mean() > 0.7


@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_channel_is_two_classes_parted_at_a_half(files, importing, sigmoid, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("background\nred\n")
    weights = np.array([20, 0, 0], np.float32).reshape(1, 3, 1, 1)
    values = [
        onnx.numpy_helper.from_array(weights, "red"),
        onnx.numpy_helper.from_array(np.array([-10], np.float32), "less"),
    ]
    nodes = [make("Conv", ["input:0", "red", "less"], ["maps"])]
    nodes += [make("Sigmoid" if sigmoid else "Identity", ["maps"], ["out/scores"])]
    path = files.write(nodes, values=values, shape=(1, 3, 16, 24))
    bundle = importing(path, task="segment", classes=names)
    image, mask = quarters()
    outputs = infer(bundle, image)
    np.testing.assert_array_equal(outputs["mask"], (mask == 0).astype(np.uint8))
    np.testing.assert_allclose(outputs["confidence"], 1 / (1 + np.exp(-10)), rtol=1e-5)
    classes = bundle.manifest.classes
    assert [c.name for c in classes] == ["background", "red"]
    assert None not in {c.color for c in classes}
    assert classes[0].color != classes[1].color
