"""Scores of pixels become a mask and its confidence, at the size of the input."""

import numpy as np
import onnx
import pytest
from onnx import helper

from dlcv.runtime.bundle import open_bundle
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


def redness(files, *tail, bias=-10.0):
    """A file of one channel: 20 times the red, less 10, then `tail` from `maps` to `out/scores`."""
    weights = np.array([20, 0, 0], np.float32).reshape(1, 3, 1, 1)
    values = [
        onnx.numpy_helper.from_array(weights, "red"),
        onnx.numpy_helper.from_array(np.array([bias], np.float32), "less"),
    ]
    nodes = [make("Conv", ["input:0", "red", "less"], ["maps"]), *tail]
    return files.write(nodes, values=values, shape=(1, 3, 16, 24))


ONE_CHANNEL = {name: make(name, ["maps"], ["out/scores"]) for name in ("Sigmoid", "Identity")}


@pytest.mark.parametrize("last", ONE_CHANNEL)
def test_one_channel_is_two_classes_parted_at_a_half(files, importing, last, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("background\nred\n")
    bundle = importing(redness(files, ONE_CHANNEL[last]), task="segment", classes=names)
    assert (bundle.manifest.activation, bundle.manifest.threshold) == ("sigmoid", 0.5)
    image, mask = quarters()
    outputs = infer(bundle, image)
    np.testing.assert_array_equal(outputs["mask"], (mask == 0).astype(np.uint8))
    np.testing.assert_allclose(outputs["confidence"], 1 / (1 + np.exp(-10)), rtol=1e-5)
    classes = bundle.manifest.classes
    assert [c.name for c in classes] == ["background", "red"]
    assert None not in {c.color for c in classes}
    assert classes[0].color != classes[1].color


@pytest.mark.parametrize("last", ONE_CHANNEL)
def test_a_threshold_parts_the_pixels_of_one_channel(files, importing, last):
    bundle = importing(redness(files, ONE_CHANNEL[last]), task="segment", threshold=0.9)
    assert (bundle.manifest.activation, bundle.manifest.threshold) == ("sigmoid", 0.9)
    image = np.zeros((1, 16, 24, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, 24).astype(np.uint8)
    second = 1 / (1 + np.exp(10 - 20 * (image[..., 0] / 255)))
    outputs = infer(bundle, image)
    np.testing.assert_array_equal(outputs["mask"], (second >= 0.9).astype(np.uint8))
    expected = np.where(second >= 0.9, second, 1 - second)
    np.testing.assert_allclose(outputs["confidence"], expected, rtol=1e-4, atol=1e-6)
    assert ((second > 0.5) & (second < 0.9)).any()


def test_a_pixel_at_the_threshold_is_of_the_second_class(files, importing):
    bundle = importing(redness(files, ONE_CHANNEL["Identity"], bias=0.0), task="segment")
    outputs = infer(bundle, np.zeros((1, 16, 24, 3), np.uint8))
    assert (outputs["mask"] == 1).all()
    assert (outputs["confidence"] == 0.5).all()


def test_more_than_256_classes_are_a_mask_of_16_bits(files, importing):
    weights = np.zeros((300, 3, 1, 1), np.float32)
    weights[[299, 257, 3], [0, 1, 2]] = 10  # red, green, blue
    bias = np.full(300, -10, np.float32)
    bias[[299, 257, 3, 256]] = 0, 0, 0, 5
    values = [
        onnx.numpy_helper.from_array(weights, "weights"),
        onnx.numpy_helper.from_array(bias, "bias"),
    ]
    nodes = [make("Conv", ["input:0", "weights", "bias"], ["out/scores"])]
    path = files.write(nodes, values=values, shape=("N", 3, 16, 24))
    bundle = open_bundle(importing(path, task="segment").path)
    assert str(bundle.graph().outputs[0]) == "mask: uint16 (batch, 16, 24)"
    image, mask = quarters()
    outputs = infer(bundle, image)
    assert outputs["mask"].dtype == np.uint16
    np.testing.assert_array_equal(outputs["mask"], np.array([299, 257, 3, 256])[mask])
    casts = {n.output[0]: n.op_type for n in onnx.load(bundle.path / "model.onnx").graph.node}
    assert casts["mask"] == "Cast"  # TensorRT has no uint16, and takes the tensor before


def test_a_letterbox_is_in_the_manifest_and_the_card(files, importing):
    path = files.colours()
    made = importing(path, task="segment", resize="letterbox", pad=(114,), pad_at="end")
    bundle = open_bundle(made.path)
    preprocessing = bundle.manifest.preprocessing
    assert (preprocessing.resize, preprocessing.size) == ("letterbox", (16, 24))
    assert (preprocessing.pad, preprocessing.pad_at) == ((114, 114, 114), "end")
    card = (made.path / "README.md").read_text()
    assert "--resize letterbox --pad 114 --pad-at end -o" in card
    images = [case.inputs["image"] for case in bundle.golden()]
    assert any((image[:, :, -1] == 114).all() for image in images)  # the border of a taller photo
