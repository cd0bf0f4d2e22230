"""Small ONNX files whose answers are known by heart, as other people's tools would write them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.onnx_import import ImportOptions, import_bundle
from dlcv.runtime.bundle import Bundle

make = helper.make_node


def constants(**arrays: Any) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]


class FileWriter:
    """Writes models of one image input `input:0` to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        nodes: Sequence[onnx.NodeProto],
        *,
        shape: Sequence[Any] = ("N", 3, 8, 8),
        outputs: Sequence[str] = ("out/scores",),
        values: Sequence[TensorProto] = (),
        kind: int = TensorProto.FLOAT,
        gives: int | None = None,
        opset: int = 18,
        ir: int = 10,
        listed: bool = False,
        domain: str = "",
        functions: Sequence[onnx.FunctionProto] = (),
    ) -> Path:
        """`listed`: constants are inputs too, as files of IR 3 have them."""
        inputs = [helper.make_tensor_value_info("input:0", kind, list(shape))]
        if listed:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in values]
        graph = helper.make_graph(
            list(nodes),
            "somebody's",
            inputs,
            [helper.make_tensor_value_info(name, gives or kind, None) for name in outputs],
            list(values),
        )
        imports = [helper.make_opsetid("", opset)]
        imports += [helper.make_opsetid(domain, 1)] if domain else []
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=ir, functions=list(functions)
        )
        model = onnx.shape_inference.infer_shapes(model)  # outputs must have a shape
        for value in model.graph.output:
            value.type.tensor_type.shape.SetInParent()  # empty where it cannot be inferred
        path = self.folder / "net v1.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def means(self, *, nhwc: bool = False, channels: int = 3, **options: Any) -> Path:
        """The mean of each channel, twice, as scores: what the pixels became can be read off them."""
        kind = options.get("kind", TensorProto.FLOAT)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        nodes = [
            make("GlobalAveragePool", ["nchw" if nhwc else "input:0"], ["pooled"]),
            make("Flatten", ["pooled"], ["means"], axis=1),
            make("Gemm", ["means", "twice", "zeros"], ["out/scores"]),
        ]
        if nhwc:
            nodes.insert(0, make("Transpose", ["input:0"], ["nchw"], perm=[0, 3, 1, 2]))
        values = constants(twice=2 * np.eye(channels, dtype=dtype), zeros=np.zeros(channels, dtype))
        sides = ("N", 8, 8, channels) if nhwc else ("N", channels, 8, 8)
        return self.write(nodes, **{"shape": sides, "values": values} | options)

    def colours(self, *tail: onnx.NodeProto, pooled: bool = False, **options: Any) -> Path:
        """Scores of each pixel: ten times its red, green and blue, and 5 of a fourth class."""
        weights = np.zeros((4, 3, 1, 1), np.float32)
        weights[:3, :, 0, 0] = 10 * np.eye(3)
        nodes = [make("Conv", ["input:0", "weights", "bias"], ["maps"])]
        if pooled:
            pool = make("AveragePool", ["maps"], ["small"], kernel_shape=[2, 2], strides=[2, 2])
            nodes.append(pool)
        last = "small" if pooled else "maps"
        nodes += tail or (make("Identity", [last], ["out/scores"]),)
        values = constants(weights=weights, bias=np.array([0, 0, 0, 5], np.float32))
        values += options.pop("values", [])
        return self.write(nodes, **{"shape": ("N", 3, 16, 24), "values": values} | options)


@pytest.fixture
def files(tmp_path: Path) -> FileWriter:
    """Writes small ONNX files."""
    return FileWriter(tmp_path)


@pytest.fixture
def importing(tmp_path: Path) -> Callable[..., Bundle]:
    """Imports a file: `importing(path, task="classify", ...)`."""

    def bundle(path: Path, **options: Any) -> Bundle:
        settings: dict[str, Any] = {"task": "classify"} | options
        return import_bundle(path, tmp_path / "bundle", ImportOptions(**settings))

    return bundle
