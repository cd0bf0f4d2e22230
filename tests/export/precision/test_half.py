"""16-bit graphs are clean and typed, keep what overflows, and their rehearsal rounds what they round."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.precision.half import half_model, half_plan, rehearsal
from dlcv.export.precision.intermediates import Tap, largest_values
from dlcv.export.precision.nodes import activations, float_tensors, prepared_model
from dlcv.runtime.bundle import open_bundle

BUILTIN = ["cifar10-vit", "camvid-lraspp"]


@pytest.fixture(scope="module", params=BUILTIN)
def builtin(request):
    bundle = open_bundle(request.param)
    return bundle, prepared_model(bundle.read("model.onnx"))


def chain(*factors):
    """A graph that casts the image and multiplies by each factor, with a product of matrices first."""
    constants = {f"f{i}": np.float32(f) for i, f in enumerate(factors)}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "eye"], ["x0"]),
        *(
            helper.make_node("Mul", [f"x{i}", f"f{i}"], [f"x{i + 1}"], name=f"times{i}")
            for i in range(len(factors))
        ),
    ]
    end = f"x{len(factors)}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 2, 3])],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["batch", 2, 2, 3])],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in (constants | {"eye": np.eye(3, dtype=np.float32)}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return prepared_model(model.SerializeToString())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_no_cast_is_repeated_undone_or_of_a_constant(builtin, precision):
    bundle, model = builtin
    data = half_model(model, half_plan(model, precision, ranges={}))
    graph = onnx.load_from_string(data).graph
    casts = [n for n in graph.node if n.op_type == "Cast"]
    results = {n.output[0]: n.input[0] for n in casts}
    constants = {t.name for t in graph.initializer}
    assert max(Counter((n.input[0], n.attribute[0].i) for n in casts).values()) == 1
    ours = [n for n in casts if n.name.startswith("cast ")]
    assert ours
    assert not [n.name for n in ours if n.input[0] in results or n.input[0] in constants]
    assert len(data) < 0.55 * bundle.manifest.files["model.onnx"].size_bytes


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_builds_the_typed_graph(builtin, precision, tensorrt_faults):
    bundle, model = builtin
    data = half_model(model, half_plan(model, precision, ranges={}))
    assert not tensorrt_faults(data, bundle.manifest.preprocessing.size)


def test_softmax_norms_resizing_and_the_ends_of_the_graph_stay_in_fp32(builtin):
    _, model = builtin
    plan = half_plan(model, "fp16", ranges={})
    kept = [n for n in model.graph.node if n.name not in plan.nodes]
    kinds = {n.op_type for n in model.graph.node if n.name in plan.nodes}
    assert kinds.isdisjoint({"Softmax", "LayerNormalization", "Resize", "Exp"})
    assert {"Conv"} <= kinds
    normalisation = {
        n.op_type for n in kept if "to_copy" in n.name or n.name in ("node_mul", "node_sub")
    }
    assert normalisation >= {"Cast", "Mul", "Sub"}


def test_what_overflows_stays_in_fp32():
    model = chain(1000.0, 0.001)
    names = activations(model, float_tensors(model))
    image = np.full((1, 2, 2, 3), 200, np.uint8)
    exact = model.SerializeToString()
    ranges = largest_values(exact, names, [image])
    assert ranges["x1"] == 200_000
    blind, informed = (half_plan(model, "fp16", ranges=r) for r in ({}, ranges))
    assert {"times0", "times1"} <= blind.nodes
    assert not {"times0", "times1"} & informed.nodes
    assert np.isinf(Tap(rehearsal(model, blind), ["x2"])(image)["x2"]).all()
    np.testing.assert_allclose(Tap(rehearsal(model, informed), ["x2"])(image)["x2"], 200, rtol=1e-3)


def test_a_constant_that_the_type_cannot_hold_keeps_its_node():
    plans = [half_plan(chain(c, 1.0), "fp16", ranges={}).nodes for c in (1e-7, 1e6, 0.5)]
    assert ["times0" in nodes for nodes in plans] == [False, False, True]
    assert "times0" in half_plan(chain(1e6, 1.0), "bf16", ranges={}).nodes


@pytest.mark.parametrize(("precision", "bits"), [("fp16", 11), ("bf16", 8)])
def test_the_rehearsal_rounds_every_tensor(precision, bits):
    model = chain(1 / 3, 1.0)
    image = np.arange(1, 13, dtype=np.uint8).reshape(1, 2, 2, 3)
    plan = half_plan(model, precision, ranges={})
    result = Tap(rehearsal(model, plan), ["x2"])(image)["x2"]
    relative = np.abs(result * 3 / image - 1)
    assert 0 < relative.max() <= 2.0 ** (1 - bits)
    mantissas = np.frexp(result)[0] * 2.0**bits
    np.testing.assert_array_equal(mantissas, np.round(mantissas))


def test_nodes_may_be_kept_by_name():
    model = chain(0.5, 0.25)
    everything = half_plan(model, "fp16", ranges={}).nodes
    assert half_plan(model, "fp16", ranges={}, keep=["times1"]).nodes == everything - {"times1"}
