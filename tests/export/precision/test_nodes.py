"""Graphs are prepared for conversion: constants are initializers, also those stored in 16 bits."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.precision.intermediates import Tap
from dlcv.export.precision.nodes import constants_of, prepared_model


def stored_in_fp16() -> bytes:
    """A product with weights that are stored in fp16 and cast to fp32."""
    make = helper.make_node
    nodes = [
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("Cast", ["half"], ["weights"], to=TensorProto.FLOAT),
        make("MatMul", ["pixels", "weights"], ["y"]),
    ]
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float16)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 2, 4])],
        [numpy_helper.from_array(weights, "half")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def test_weights_stored_in_fp16_become_fp32_weights():
    data = stored_in_fp16()
    model = prepared_model(data)
    constants = constants_of(model)
    assert [n.op_type for n in model.graph.node] == ["Cast", "MatMul"]
    assert {name: array.dtype for name, array in constants.items()} == {"weights": np.float32}
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), np.uint8)
    before, after = (Tap(d, ["y"])(image)["y"] for d in (data, model.SerializeToString()))
    np.testing.assert_array_equal(before, after)


def test_a_cast_that_is_an_output_stays():
    model = onnx.load_from_string(stored_in_fp16())
    model.graph.output.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [3, 4]))
    kept = prepared_model(model.SerializeToString())
    assert [n.op_type for n in kept.graph.node] == ["Cast", "Cast", "MatMul"]
