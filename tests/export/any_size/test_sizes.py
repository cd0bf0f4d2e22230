"""Whole numbers in a graph: the exact arithmetic of the host."""

from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dlcv.export.any_size.sizes import Scalars
from dlcv.export.onnx_import.nodes import Nodes


def results(operation: str, pairs: list[tuple[int, int]]) -> list[int]:
    nodes = Nodes("t/")
    scalars = Scalars(nodes)
    output = getattr(scalars, operation)("a", "b")
    nodes.add("Identity", output, output="y")
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("a", "b", "y")]
    graph = helper.make_graph(nodes.nodes, "g", ends[:2], ends[2:], nodes.constants)
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = [{"a": np.array(a, np.int64), "b": np.array(b, np.int64)} for a, b in pairs]
    answers: list[Any] = [session.run(None, feed)[0] for feed in feeds]
    return [int(answer) for answer in answers]


PAIRS = [(a, b) for a in (*range(13), 4000, 6001) for b in (*range(1, 9), 4000)]


def test_rounding_takes_halves_to_the_even_number() -> None:
    assert results("rounded", PAIRS) == [round(Fraction(a, b)) for a, b in PAIRS]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("add", lambda a, b: a + b),
        ("sub", lambda a, b: a - b),
        ("mul", lambda a, b: a * b),
        ("div", lambda a, b: a // b),
        ("max", max),
        ("min", min),
        ("remainder", lambda a, b: a % b),
    ],
)
def test_arithmetic_is_that_of_python(operation, expected) -> None:
    assert results(operation, PAIRS) == [expected(a, b) for a, b in PAIRS]
