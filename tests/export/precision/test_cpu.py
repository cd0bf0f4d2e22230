"""int8 graphs for CPUs by NNCF: 7-bit weights in the file, uint8 activations, fp32 around them, the same bytes again."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.precision import cpu
from dlcv.export.precision.candidates import Maker
from dlcv.export.precision.cpu import converted_nodes, cpu_model, has_attention
from dlcv.export.precision.nodes import prepared_model
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines import EngineModel, EngineOptions, engine_entry
from dlcv.runtime.engines.base import Engine
from dlcv.runtime.errors import BundleError, InputError

pytest.importorskip("nncf")
make = helper.make_node
CHANNELS = 16
TENSORS = (
    TensorSpec(name="image", dtype="uint8", shape=("batch", 16, 16, 3)),
    TensorSpec(name="probabilities", dtype="float32", shape=("batch", 10)),
)
NODES = [
    make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
    make("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
    make("Sub", ["planes", "mean"], ["centred"], name="normalise"),
    make("Mul", ["centred", "scale"], ["x0"], name="scale"),
    make("Conv", ["x0", "w.full", "b"], ["c0"], name="full", pads=[1] * 4),
    make("Relu", ["c0"], ["x1"]),
    make("Conv", ["x1", "w.grouped", "b"], ["c1"], name="grouped", pads=[1] * 4, group=4),
    make("Add", ["c1", "x1"], ["x2"], name="residual"),
    make("Conv", ["x2", "w.depthwise"], ["c2"], name="depthwise", pads=[1] * 4, group=CHANNELS),
    make("ReduceMean", ["c2", "hw"], ["vector"], keepdims=0),
    make("Gemm", ["vector", "w.last"], ["logits"], name="last", transB=1),
    make("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1),
]


def toy() -> bytes:
    """A classifier with a full, a grouped and a depthwise convolution."""
    draw = np.random.default_rng(0).normal
    shapes = {
        "full": (CHANNELS, 3, 3, 3),
        "grouped": (CHANNELS, CHANNELS // 4, 3, 3),
        "depthwise": (CHANNELS, 1, 3, 3),
        "last": (10, CHANNELS),
    }
    weights = {f"w.{name}": draw(size=shape) / 3 for name, shape in shapes.items()}
    constants = {k: v.astype(np.float32) for k, v in (weights | {"b": draw(size=CHANNELS)}).items()}
    constants |= {"mean": np.array(128, np.float32), "scale": np.array(1 / 64, np.float32)}
    constants |= {"hw": np.array([2, 3])}
    graph = helper.make_graph(
        NODES,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


IMAGES = list(np.random.default_rng(1).integers(0, 256, (16, 16, 16, 3), np.uint8))


@contextmanager
def loaded(name: str, data: bytes) -> Iterator[Engine]:
    model = EngineModel(onnx=data, tensors=TENSORS, precision="int8", narrow=True)
    settings = {"cache": "false"} if name == "openvino" else {}
    with engine_entry(name).engine_class()(model, EngineOptions(settings=settings)) as engine:
        yield engine


@pytest.fixture(scope="module")
def quantised() -> bytes:
    return cpu_model(prepared_model(toy()), IMAGES)


@pytest.fixture(scope="module")
def parts(quantised):
    """The nodes by what they give, and the constants by name."""
    graph = onnx.load_from_string(quantised).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return {name: n for n in graph.node for name in n.output}, constants


def test_weights_are_stored_as_int8_with_a_scale_a_channel(parts):
    nodes, constants = parts
    for name in ("c0", "c1", "c2", "logits"):
        source = nodes[nodes[name].input[1]]
        weights, scale = (constants[n] for n in source.input[:2])
        assert source.op_type == "DequantizeLinear"
        assert weights.dtype == np.int8
        assert scale.shape == (len(weights),)
        assert np.abs(weights.astype(int)).max() <= (127 if name == "c2" else 64)
    assert not [name for name, a in constants.items() if a.dtype == np.float32 and a.ndim > 1]


def test_activations_are_uint8_with_one_scale(parts):
    nodes, constants = parts
    pairs = [n for n in nodes.values() if n.op_type == "QuantizeLinear"]
    assert len(pairs) >= 4
    assert all(constants[n.input[1]].shape == () for n in pairs)
    assert all(constants[n.input[2]].dtype == np.uint8 for n in pairs)


def test_the_normalisation_and_the_softmax_stay_in_fp32(parts):
    nodes, _ = parts
    for name in ("centred", "x0", "probabilities"):
        assert all(nodes[n].op_type != "DequantizeLinear" for n in nodes[name].input if n in nodes)


def test_the_same_images_give_the_same_bytes(quantised):
    assert cpu_model(prepared_model(toy()), IMAGES) == quantised


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_each_engine_gives_nearly_the_answers_of_fp32(name, quantised):
    if name == "openvino":
        pytest.importorskip("openvino")
    feeds = {"image": np.stack(IMAGES)}
    with loaded(name, quantised) as lower, loaded("ort", toy()) as exact:
        difference = np.abs(
            lower.infer(feeds)["probabilities"] - exact.infer(feeds)["probabilities"]
        )
    assert difference.max() < 0.15  # random weights, so the logits are large


def test_the_worst_nodes_are_named_and_may_be_kept():
    maker = Maker(toy(), "int8-cpu", IMAGES, progress=lambda _: None)
    everything = maker.build(())
    ranking = [entry.node for entry in maker.rank(everything)]
    assert {"full", "grouped", "depthwise", "last"} <= set(ranking) == set(everything.converted)
    less = maker.build(["grouped", "last"])
    assert less.kept == ("grouped", "last")
    assert not {"grouped", "last"} & set(less.converted)
    assert {"full", "depthwise"} <= set(less.converted)


def test_products_of_two_activations_stay_in_fp32():
    bundle = open_bundle("cifar10-vit")
    model = prepared_model(bundle.read("model.onnx"))
    data = cpu_model(model, [case.inputs["image"][0] for case in bundle.golden()])
    constants = {tensor.name for tensor in model.graph.initializer}
    products = {
        n.name for n in model.graph.node if n.op_type == "MatMul" and not constants & set(n.input)
    }
    assert products
    assert not products & set(converted_nodes(model, data))
    assert len(data) < 0.4 * bundle.manifest.files["model.onnx"].size_bytes


@pytest.mark.parametrize(("name", "has"), [("cifar10-vit", True), ("camvid-lraspp", False)])
def test_attention_is_found_in_the_graph(name, has):
    model = prepared_model(open_bundle(name).read("model.onnx"))
    assert has_attention(model) is has


def test_a_graph_without_weights_has_nothing_to_quantise():
    model = prepared_model(toy())
    del model.graph.node[4:]
    with pytest.raises(InputError, match="no convolution or matrix product to quantise"):
        cpu_model(model, IMAGES)


def test_without_nncf_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cpu, "is_importable", lambda name: name != "nncf")
    with pytest.raises(InputError, match=r"made by NNCF; get it with pip install 'dlcv\[int8\]'"):
        cpu_model(prepared_model(toy()), IMAGES)


def test_a_failure_of_nncf_is_one_sentence(monkeypatch):
    import nncf

    def fail(*_, **__):
        raise RuntimeError("no\nsuch operator")

    monkeypatch.setattr(nncf, "quantize", fail)
    with pytest.raises(BundleError, match=r"\(RuntimeError: no such operator\); --for tensorrt"):
        cpu_model(prepared_model(toy()), IMAGES)


def test_nncf_sends_nothing_prints_nothing_and_needs_no_pytorch(tmp_path):
    (tmp_path / "toy.onnx").write_bytes(toy())
    code = f"""
import logging, socket, sys
import numpy as np

def refuse(*_): raise SystemExit("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
from dlcv.export.precision.cpu import cpu_model
from dlcv.export.precision.nodes import prepared_model
images = list(np.zeros((16, 16, 16, 3), np.uint8))
cpu_model(prepared_model(open({str(tmp_path / "toy.onnx")!r}, "rb").read()), images)
assert not {{"torch", "openvino_telemetry"}} & set(sys.modules)
assert logging.getLoggerClass() is logging.Logger
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
