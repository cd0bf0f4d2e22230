"""Labels that do not exclude each other: a probability of each, by a sigmoid that is added where it is missing."""

import numpy as np
import onnx
import pytest
from onnx import helper

from dlcv.export.onnx_import import Scaling
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines import load_engine
from dlcv.runtime.errors import InputError

make = helper.make_node
MEANS = [
    make("GlobalAveragePool", ["input:0"], ["pooled"]),
    make("Flatten", ["pooled"], ["means"]),
]
UP_TO_TEN = Scaling(scale=1 / 25)  # pixels of 0..10: no probabilities


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores))


def image_and_means():
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    return image, image.mean(axis=(1, 2))


def probabilities(bundle, image):
    with load_engine(bundle, "ort") as engine:
        return engine.infer({"image": image})["probabilities"]


def operators(bundle):
    return [node.op_type for node in onnx.load_from_string(bundle.read("model.onnx")).graph.node]


def test_a_sigmoid_is_added_to_logits(files, importing):
    path = files.write([*MEANS, make("Identity", ["means"], ["out/scores"])])
    made = importing(path, activation="sigmoid", threshold=0.25, scaling=UP_TO_TEN)
    manifest = open_bundle(made.path).manifest
    assert (manifest.activation, manifest.threshold) == ("sigmoid", 0.25)
    image, means = image_and_means()
    np.testing.assert_allclose(probabilities(made, image), sigmoid(means / 25), rtol=1e-5)
    card = (made.path / "README.md").read_text()
    assert "--activation sigmoid --threshold 0.25 -o" in card
    assert "an image has those of 0.25 or more" in card


def test_probabilities_stay_as_they_are(files, importing):
    path = files.write([*MEANS, make("Sigmoid", ["means"], ["out/scores"])])
    bundle = importing(path, activation="sigmoid", scaling=UP_TO_TEN)
    assert bundle.manifest.threshold == 0.5
    image, means = image_and_means()
    np.testing.assert_allclose(probabilities(bundle, image), sigmoid(means / 25), rtol=1e-5)
    assert operators(bundle).count("Sigmoid") == 1


def test_scores_of_0_to_1_are_logits_where_the_user_says_so(files, importing):
    path = files.write([*MEANS, make("Identity", ["means"], ["out/scores"])])
    image, means = image_and_means()
    said = importing(path, activation="sigmoid", logits="yes")
    np.testing.assert_allclose(probabilities(said, image), sigmoid(means / 255), rtol=1e-5)


@pytest.mark.parametrize("batch", ["N", 1])
def test_one_score_is_one_label(files, importing, batch, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("defect\n")
    weights = onnx.numpy_helper.from_array(np.array([[1.0], [0], [-1]], np.float32), "weights")
    nodes = [*MEANS, make("MatMul", ["means", "weights"], ["out/scores"])]
    path = files.write(nodes, values=[weights], shape=(batch, 3, 8, 8))
    bundle = importing(path, activation="sigmoid", scaling=UP_TO_TEN, classes=names)
    image, means = image_and_means()
    expected = sigmoid((means[:, :1] - means[:, 2:]) / 25)
    np.testing.assert_allclose(probabilities(bundle, image), expected, rtol=1e-5)


def test_scores_that_are_no_probabilities_are_refused_as_such(files, importing):
    path = files.write([*MEANS, make("Identity", ["means"], ["out/scores"])])
    with pytest.raises(InputError, match=r"are not probabilities \(0\.\.1\); give --logits yes"):
        importing(path, activation="sigmoid", logits="no", scaling=UP_TO_TEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.3}, "a threshold needs a sigmoid: give --activation sigmoid"),
        (
            {"threshold": 1.0, "activation": "sigmoid"},
            "a threshold is a probability between 0 and 1, not 1",
        ),
    ],
)
def test_a_threshold_that_decides_nothing_is_refused(files, importing, options, message):
    with pytest.raises(InputError, match=message):
        importing(files.means(), **options)
