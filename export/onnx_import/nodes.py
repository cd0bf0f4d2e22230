"""Collects the nodes that are added around a file's graph."""

from __future__ import annotations

from typing import Any, TypeAlias, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array: TypeAlias = "np.ndarray[Any, Any]"


@final
class Nodes:
    """Nodes and constants in order, with unique names that start with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name = f"{self._prefix}{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [output or name], name=name, **attributes)
        self.nodes.append(node)
        return output or name

    def constant(self, array: Array) -> str:
        """Add a constant and return its name."""
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def floats(self, tensor: str) -> str:
        """Add a cast to float32 and return its output."""
        return self.add("Cast", tensor, to=TensorProto.FLOAT)
