"""A graph cut down to some outputs computes these as before, and nothing else."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.bundle.onnx_protobuf import model_with_int32_outputs, model_with_outputs
from dlcv.runtime.engines import EngineModel, EngineOptions
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import BundleError

OUTPUTS = ("probabilities", "embedding", "explanation", "attention")


def run(model: bytes, image: Any) -> Any:
    with OrtEngine(EngineModel(onnx=model), EngineOptions(threads=1)) as engine:
        return engine.infer({"image": image})


@pytest.mark.parametrize("wanted", [*[(name,) for name in OUTPUTS], OUTPUTS[1:3], OUTPUTS])
def test_the_wanted_outputs_are_as_before(classify_bundle: Path, wanted: tuple[str, ...]) -> None:
    model = open_bundle(classify_bundle).read("model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    whole, cut = run(model, image), run(model_with_outputs(model, wanted), image)
    assert tuple(cut) == wanted
    for name in wanted:
        np.testing.assert_array_equal(cut[name], whole[name])


def test_nodes_and_constants_of_other_outputs_are_gone(classify_bundle: Path) -> None:
    model = open_bundle(classify_bundle).read("model.onnx")
    cut = onnx.load_from_string(model_with_outputs(model, ["embedding"]))
    onnx.checker.check_model(cut, full_check=True)
    assert [node.op_type for node in cut.graph.node] == ["Cast", "Div", "ReduceMean"]
    assert {tensor.name for tensor in cut.graph.initializer} == {"full", "hw"}
    assert cut.opset_import[0].version == 18


def test_an_output_that_another_one_needs_is_computed_but_not_returned() -> None:
    make = onnx.helper.make_node
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xab"]
    nodes = [make("Neg", ["x"], ["a"]), make("Abs", ["a"], ["b"])]
    graph = onnx.helper.make_graph(nodes, "chain", values[:1], values[1:])
    cut = onnx.load_from_string(
        model_with_outputs(onnx.helper.make_model(graph).SerializeToString(), ["b"])
    )
    assert [value.name for value in cut.graph.output] == ["b"]
    assert len(cut.graph.node) == 2


def test_what_a_branch_reads_from_outside_is_kept() -> None:
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    number = onnx.TensorProto.FLOAT
    branches: dict[str, Any] = {
        f"{name}_branch": onnx.helper.make_graph(
            [make(op, ["outer"], ["inner"])], name, [], [info("inner", number, [1])]
        )
        for name, op in (("then", "Neg"), ("else", "Abs"))
    }
    nodes = [
        make("Exp", ["x"], ["outer"]),
        make("Sqrt", ["x"], ["unused"]),
        make("If", ["condition"], ["y"], **branches),
    ]
    inputs = [info("x", number, [1]), info("condition", onnx.TensorProto.BOOL, [])]
    outputs = [info("y", number, [1]), info("unused", number, [1])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs))
    cut = onnx.load_from_string(model_with_outputs(model.SerializeToString(), ["y"]))
    assert [node.op_type for node in cut.graph.node] == ["Exp", "If"]


UINT16, INT32 = onnx.TensorProto.UINT16, onnx.TensorProto.INT32


def test_outputs_of_uint16_become_int32_and_nothing_else_changes() -> None:
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Cast", ["x"], ["mask"], to=UINT16),
        make("Cast", ["x"], ["inner"], to=UINT16),
        make("Cast", ["inner"], ["whole"], to=onnx.TensorProto.INT64),
    ]
    outputs = [
        info("mask", UINT16, ["batch", 4]),
        info("whole", onnx.TensorProto.INT64, ["batch", 4]),
    ]
    inputs = [info("x", onnx.TensorProto.FLOAT, ["batch", 4])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs))
    wide = onnx.load_from_string(model_with_int32_outputs(model.SerializeToString()))
    onnx.checker.check_model(wide, full_check=True)
    model.graph.node[0].attribute[0].i = model.graph.output[0].type.tensor_type.elem_type = INT32
    assert wide == model


def test_an_output_of_uint16_that_no_cast_makes_stays() -> None:
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    inputs, outputs = ([info(name, UINT16, [4])] for name in "xy")
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    model = onnx.helper.make_model(graph).SerializeToString()
    assert model_with_int32_outputs(model) == model


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x3a\x7f", b"\x3b"])
def test_what_is_not_onnx_is_refused(data: bytes) -> None:
    for change in (model_with_int32_outputs, partial(model_with_outputs, outputs=["y"])):
        with pytest.raises(BundleError, match="not an ONNX file"):
            change(data)
