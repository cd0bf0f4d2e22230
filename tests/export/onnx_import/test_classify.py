"""Scores become probabilities and an embedding; what one image gets does not depend on the others."""

import csv
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dlcv.export.onnx_import import ImportOptions, Scaling, import_bundle
from dlcv.export.writing import BundleOptions
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines import load_engine
from dlcv.runtime.errors import InputError, ParityError
from dlcv.runtime.measure.parity import replay_golden

make = helper.make_node
GAP = make("GlobalAveragePool", ["input:0"], ["pooled"])


def infer(bundle, image):
    with load_engine(bundle, "ort") as engine:
        return engine.infer({"image": image})


def photos(count=3, size=(8, 8)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def int64(**arrays):
    return [onnx.numpy_helper.from_array(np.array(a, np.int64), name) for name, a in arrays.items()]


BATCH_OF_ONE = {
    "Reshape to (1, 3)": ([make("Reshape", ["pooled", "shape"], ["out/scores"])], [1, 3]),
    "Reshape to (3)": ([make("Reshape", ["pooled", "shape"], ["out/scores"])], [3]),
    "Squeeze of all axes": ([make("Squeeze", ["pooled"], ["out/scores"])], [0]),
    "Squeeze with axis 0": ([make("Squeeze", ["pooled", "shape"], ["out/scores"])], [0, 2, 3]),
    "Squeeze of axis 0 alone": (
        [
            make("Flatten", ["pooled"], ["flat"]),
            make("Squeeze", ["flat", "shape"], ["out/scores"]),
        ],
        [0],
    ),
    "folded batch": (
        [
            make("Reshape", ["pooled", "shape"], ["folded"]),
            make("Reshape", ["folded", "back"], ["out/scores"]),
        ],
        [3, 1, 1],
    ),
    "Resize to (1, 3, 4, 4)": (
        [
            make("Resize", ["pooled", "", "", "shape"], ["large"], mode="nearest"),
            make("GlobalAveragePool", ["large"], ["means"]),
            make("Flatten", ["means"], ["out/scores"]),
        ],
        [1, 3, 4, 4],
    ),
}


@pytest.mark.parametrize("case", BATCH_OF_ONE)
def test_a_batch_of_one_is_freed(files, importing, case):
    nodes, shape = BATCH_OF_ONE[case]
    values = int64(shape=shape, back=[1, 3])
    path = files.write([GAP, *nodes], shape=(1, 3, 8, 8), values=values)
    bundle = importing(path, task="embed")
    image = photos()
    expected = image.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(infer(bundle, image)["embedding"], expected, rtol=1e-5)


def test_softmax_is_added_where_there_is_none(files, importing, tmp_path):
    image = photos()
    logits = infer(importing(files.means()), image)["probabilities"]
    np.testing.assert_allclose(logits.sum(1), 1, rtol=1e-5)
    nodes = [GAP, make("Softmax", ["pooled"], ["out/scores"], axis=1)]
    done = import_bundle(
        files.write(nodes), tmp_path / "done", ImportOptions(task="classify", embedding="pooled")
    )
    means = np.exp(image.mean(axis=(1, 2)) / 255)
    expected = means / means.sum(1, keepdims=True)
    np.testing.assert_allclose(infer(done, image)["probabilities"], expected, rtol=1e-5)


def test_one_score_is_that_of_the_second_of_two_classes(files, importing):
    weights = np.array([[1.0], [0], [-1]], np.float32)
    values = [onnx.numpy_helper.from_array(weights, "weights")]
    nodes = [
        GAP,
        make("Flatten", ["pooled"], ["means"]),
        make("MatMul", ["means", "weights"], ["out/scores"]),
    ]
    path = files.write(nodes, values=values)
    bundle = importing(path, scaling=Scaling(scale=1 / 25))  # from -10 to 10: no probabilities
    image = np.zeros((2, 8, 8, 3), np.uint8)
    image[0, ..., 0], image[1, ..., 2] = 100, 50
    expected = 1 / (1 + np.exp(-np.array([4.0, -2.0])))
    outputs = infer(bundle, image)
    np.testing.assert_allclose(outputs["probabilities"][:, 1], expected, rtol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, rtol=1e-5)


def test_the_embedding_is_what_the_last_linear_layer_reads_or_the_named_tensor(
    files, importing, tmp_path
):
    image = photos()
    means = image.mean(axis=(1, 2)) / 255
    path = files.means()
    np.testing.assert_allclose(infer(importing(path), image)["embedding"], means, rtol=1e-5)
    named = import_bundle(
        path, tmp_path / "named", ImportOptions(task="classify", embedding="out/scores")
    )
    np.testing.assert_allclose(infer(named, image)["embedding"], 2 * means, rtol=1e-5)


def test_a_graph_without_a_linear_layer_gives_probabilities_alone(files, importing):
    bundle = importing(files.write([GAP, make("Flatten", ["pooled"], ["out/scores"])]))
    assert [spec.name for spec in bundle.graph().outputs] == ["probabilities"]
    assert "It gives no embedding" in (bundle.path / "README.md").read_text()
    image = photos()
    powers = np.exp(image.mean(axis=(1, 2)) / 255)
    found = infer(bundle, image)
    np.testing.assert_allclose(
        found["probabilities"], powers / powers.sum(1, keepdims=True), rtol=1e-5
    )


def test_what_a_linear_layer_reads_is_no_embedding_unless_it_is_a_vector(files, importing):
    weights = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    nodes = [
        make("Reshape", ["input:0", "shape"], ["tokens"]),
        make("MatMul", ["tokens", "weights"], ["of each"]),
        make("ReduceMean", ["of each", "one"], ["out/scores"], keepdims=0),
    ]
    values = [
        *int64(shape=[0, 3, 64], one=[1]),
        onnx.numpy_helper.from_array(weights, "weights"),
    ]
    path = files.write(nodes, values=values)
    bundle = importing(path)
    assert [str(spec) for spec in bundle.graph().outputs] == ["probabilities: float32 (batch, 5)"]
    with pytest.raises(InputError, match=r"the embedding is \(3, 64\) .* by --embedding"):
        importing(path, embedding="tokens", writing=BundleOptions(overwrite=True))


def test_maps_are_averaged_into_an_embedding(files, importing):
    nodes = [
        make("Relu", ["input:0"], ["maps"]),
        make("Conv", ["maps", "weights"], ["scores"]),
        make("GlobalAveragePool", ["scores"], ["out/scores"]),
    ]
    weights = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    path = files.write(nodes, values=[onnx.numpy_helper.from_array(weights, "weights")])
    image = photos()
    embedding = infer(importing(path), image)["embedding"]
    np.testing.assert_allclose(embedding, image.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_an_output_is_chosen_by_name(files, importing):
    nodes = [
        GAP,
        make("Flatten", ["pooled"], ["first"]),
        make("Neg", ["first"], ["second"]),
    ]
    path = files.write(nodes, outputs=["first", "second"])
    bundle = importing(path, task="embed", output="second")
    image = photos()
    np.testing.assert_allclose(
        infer(bundle, image)["embedding"], -image.mean(axis=(1, 2)) / 255, rtol=1e-5
    )


def test_a_graph_whose_images_mix_fails_the_gate(files, importing):
    nodes = [
        make("Flatten", ["input:0"], ["flat"]),
        make("ReduceMean", ["flat", "zero"], ["mean"], keepdims=1),
        make("Sub", ["flat", "mean"], ["out/scores"]),
    ]
    path = files.write(nodes, values=int64(zero=[0]))
    with pytest.raises(ParityError, match="does not give what net v1"):
        importing(path, task="embed")


def test_functions_are_inlined(files, importing):
    body = [make("Neg", ["x"], ["y"])]
    own = [helper.make_opsetid("", 18)]
    function = helper.make_function("somebody", "Turn", ["x"], ["y"], body, own)
    nodes = [
        GAP,
        make("Flatten", ["pooled"], ["flat"]),
        make("Turn", ["flat"], ["out/scores"], domain="somebody"),
    ]
    path = files.write(nodes, domain="somebody", functions=[function])
    image = photos()
    embedding = infer(importing(path, task="embed"), image)["embedding"]
    np.testing.assert_allclose(embedding, -image.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_qlinear_operators_become_pairs(files, importing):
    f32, u8, i8 = np.float32, np.uint8, np.int8
    values = {
        "s": f32(1 / 255), "z": u8(3), "ws": np.array([0.02, 0.01, 0.03], f32), "wz": i8(0),
        "w": np.random.default_rng(0).integers(-99, 99, (3, 3, 3, 3)).astype(i8),
        "b": np.array([40, 0, -30], np.int32), "ys": f32(0.05), "yz": u8(120), "bz": np.zeros(3, i8),
    }  # fmt: skip
    conv = ["q", "s", "z", "w", "ws", "bz", "ys", "yz", "b"]
    nodes = [
        make("QuantizeLinear", ["input:0", "s", "z"], ["q"]),
        make("QLinearConv", conv, ["c"], pads=[1, 1, 1, 1]),
        make("QLinearAdd", ["c", "ys", "yz", "c", "ys", "yz", "ys", "yz"], ["a"], domain="com.microsoft"),
        make("QLinearGlobalAveragePool", ["a", "ys", "yz", "ys", "yz"], ["p"], domain="com.microsoft", channels_last=0),
        make("DequantizeLinear", ["p", "ys", "yz"], ["out/scores"]),
    ]  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in values.items()]
    path = files.write(nodes, values=tensors, opset=13, domain="com.microsoft")
    bundle = importing(path)
    model = onnx.load_from_string(bundle.read("model.int8.onnx"))
    assert [o.domain for o in model.opset_import] == [""]
    assert not any(node.op_type.startswith("QLinear") for node in model.graph.node)
    assert bundle.graph().default_precision == "int8"
    assert bundle.variant().parity.outputs["probabilities"].max_difference < 1e-5


def test_the_bundle_says_what_it_is(files, importing, tmp_path):
    names = tmp_path / "names.csv"
    with names.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["index", "name"], [0, "red, mostly"], [1, "green"], [2, "blue"]]
        )
    writing = BundleOptions(name="mine", licence="MIT")
    scaling = Scaling(scale=1, mean=(104, 117, 123))
    made = importing(
        files.means(shape=(1, 3, 8, 8)),
        classes=names,
        scaling=scaling,
        channels="bgr",
        writing=writing,
    )
    bundle = open_bundle(made.path)
    manifest = bundle.manifest
    assert (manifest.name, manifest.licence, manifest.task) == ("mine", "MIT", "classify")
    assert [c.name for c in manifest.classes] == ["red, mostly", "green", "blue"]
    assert manifest.provenance.source.startswith("net v1.onnx, opset 18, SHA-256 ")
    assert bundle.variant().opset == 18
    assert bundle.variant().parity.reference.startswith("net v1.onnx on ONNX Runtime ")
    card = (made.path / "README.md").read_text()
    options = (
        "--task classify --scale 1 --mean 104,117,123 --channels bgr --classes names.csv "
        "--name mine --licence MIT -o mine"
    )
    assert f"dlcv-export import 'net v1.onnx' {options}" in card
    with load_engine(bundle, "ort") as engine:
        assert not replay_golden(bundle, engine).failures
    assert {shape[0] for shape in bundle.variant().parity.input_shapes} == {1, 2, 4}


def test_it_needs_no_pytorch(files, tmp_path):
    path = files.means()
    program = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from dlcv.export.onnx_import import ImportOptions, import_bundle\n"
        f"import_bundle(Path({str(path)!r}), Path({str(tmp_path / 'b')!r}), ImportOptions(task='classify'))\n"
        "print(json.dumps(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_tensorrt_rtx_builds_what_was_imported(files, importing, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from dlcv.export.engine import EngineBuild, engine_into_file

    bundle = importing(files.means(shape=(1, 3, 8, 8), kind=TensorProto.FLOAT16), channels="bgr")
    made = engine_into_file(bundle, EngineBuild(target="rtx"), out=tmp_path / "a.plan")
    assert made.plan.precision == "fp16"
