"""int8 graphs are explicit, symmetric and right, and TensorRT builds them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dlcv.export.precision.int8 import (
    quantisable_nodes,
    quantised_model,
    quantised_weights,
    threshold_from_histogram,
)
from dlcv.export.precision.intermediates import Tap, histograms, largest_values, noise_by_tensor
from dlcv.export.precision.nodes import prepared_model
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines import EngineModel, EngineOptions
from dlcv.runtime.engines.ort import OrtEngine


@pytest.fixture(scope="module", params=["cifar10-vit", "camvid-lraspp"])
def quantised(request):
    bundle = open_bundle(request.param)
    exact = bundle.read("model.onnx")
    model = prepared_model(exact)
    names = list(dict.fromkeys(n.input[0] for n in quantisable_nodes(model)))
    images = [case.inputs["image"] for case in bundle.golden()][:1]
    largest = largest_values(exact, names, images)
    return bundle, model, quantised_model(model, largest), largest, images


def test_every_pair_is_symmetric_and_weights_are_stored_in_int8(quantised):
    bundle, model, data, _, _ = quantised
    graph = onnx.load_from_string(data).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert all(constants[n.input[2]].dtype == np.int8 for n in pairs)
    assert not any(constants[n.input[2]].any() for n in pairs)
    weights = [n for n in pairs if n.input[0] in constants]
    assert len(weights) == len(quantisable_nodes(model))
    assert all(
        constants[n.input[1]].shape == (constants[n.input[0]].shape[n.attribute[0].i],)
        for n in weights
    )
    assert len(data) < 0.4 * bundle.manifest.files["model.onnx"].size_bytes


def test_softmax_norms_and_the_normalisation_are_untouched(quantised):
    _, model, data, _, _ = quantised
    results = {
        n.output[0]
        for n in onnx.load_from_string(data).graph.node
        if n.op_type == "DequantizeLinear"
    }
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "Resize", "Sub"):
            after = next(n for n in onnx.load_from_string(data).graph.node if n.name == node.name)
            assert not results & set(after.input)


def test_tensorrt_builds_it(quantised, tensorrt_faults):
    bundle, _, data, _, _ = quantised
    assert not tensorrt_faults(data, bundle.manifest.preprocessing.size)


def test_little_noise_reaches_the_outputs(quantised):
    bundle, _, data, _, images = quantised
    output = {"classify": "embedding", "segment": "confidence"}[bundle.manifest.task]
    noise = noise_by_tensor(bundle.read("model.onnx"), data, [output], images)
    assert 0 < noise[output] < 0.05


def test_kept_nodes_stay_as_they_are(quantised):
    bundle, model, _, largest, images = quantised
    everything = [n.name for n in quantisable_nodes(model)]
    data = quantised_model(model, largest, keep=everything)
    assert "QuantizeLinear" not in {n.op_type for n in onnx.load_from_string(data).graph.node}
    outputs = [v.name for v in model.graph.output if v.type.tensor_type.elem_type == 1]
    noise = noise_by_tensor(bundle.read("model.onnx"), data, outputs, images)
    assert max(noise.values()) < 1e-10


def test_weights_that_another_node_reads_too_are_not_kept_in_fp32():
    make, constant = onnx.helper.make_node, numpy_helper.from_array
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [
        make("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        make("ReduceMean", ["pixels", "hw"], ["embedding"], keepdims=0),
        make("Gemm", ["embedding", "weights"], ["logits"], name="last", transB=1),
        make("ArgMax", ["logits"], ["top"], axis=1, keepdims=0),
        make("Gather", ["weights", "top"], ["of_top"]),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["b", 2, 2, 3])
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", width])
        for name, width in (("logits", 4), ("of_top", 3))
    ]
    constants = [constant(weights, "weights"), constant(np.array([1, 2]), "hw")]
    graph = onnx.helper.make_graph(nodes, "g", [image], outputs, constants)
    opset = [onnx.helper.make_opsetid("", 18)]
    exact = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    data = quantised_model(exact, {"embedding": 255.0})
    kept = onnx.load_from_string(data).graph.initializer
    assert not any(tuple(t.dims) == (4, 3) and t.data_type == onnx.TensorProto.FLOAT for t in kept)
    feeds = {"image": np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3), np.uint8)}
    with OrtEngine(EngineModel(onnx=data, precision="int8"), EngineOptions()) as engine:
        answers = engine.infer(feeds)
    rows = weights[answers["logits"].argmax(1)]
    assert np.abs(answers["of_top"] - rows).max() < np.abs(weights).max() / 100


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_have_a_scale_for_each_channel(axis):
    weights = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    weights[2 if axis == 0 else slice(None), 2 if axis == 1 else slice(None)] = 0
    values, scales = quantised_weights(weights, axis)
    back = values * (scales[:, None] if axis == 0 else scales)
    assert values.dtype == np.int8
    assert values.min() >= -127
    assert np.abs(back - weights).max() <= scales.max() / 2 + 1e-6
    assert scales[2] == 1


def test_thresholds_cut_outliers_off_where_asked():
    values = np.abs(np.random.default_rng(0).normal(size=100_000))
    counts, _ = np.histogram(values, bins=2048, range=(0, 100.0))
    found = {
        m: threshold_from_histogram(counts, 100.0, method=m) for m in ("max", "percentile", "mse")
    }
    assert found["max"] == 100
    assert 3.5 < found["percentile"] < 5
    assert 2 < found["mse"] < 6


def test_histograms_count_every_value(quantised):
    bundle, _, _, largest, images = quantised
    name = next(iter(largest))
    exact = bundle.read("model.onnx")
    counts = histograms(exact, {name: largest[name]}, images)[name]
    array = np.abs(Tap(exact, [name])(images[0])[name])
    assert counts.sum() == array.size
    assert counts[-1] >= 1
