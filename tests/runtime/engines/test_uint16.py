"""A mask of more than 256 classes is uint16 on every engine, also on TensorRT, which has no such type."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines import (
    ENGINES,
    EngineModel,
    EngineOptions,
    engine_entry,
    why_unavailable,
)
from dlcv.runtime.engines.tensorrt import build
from dlcv.runtime.engines.tensorrt.api import TENSORRT_RTX
from dlcv.runtime.engines.tensorrt.build import plan_from_graph
from dlcv.runtime.engines.tensorrt.engine import build_request, tensors_of_engine
from dlcv.runtime.errors import BundleError
from dlcv.runtime.machine.system import is_importable

CLASSES = 300
WEIGHTS = np.random.default_rng(0).normal(size=(CLASSES, 3, 1, 1)).astype(np.float32)
PHOTOS = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
SPECS = (
    TensorSpec(name="image", dtype="uint8", shape=("batch", 8, 8, 3)),
    TensorSpec(name="mask", dtype="uint16", shape=("batch", 8, 8)),
)
needs_tensorrt_rtx = pytest.mark.skipif(
    not is_importable("tensorrt_rtx"), reason="TensorRT-RTX is not installed"
)


@pytest.fixture(scope="module")
def model() -> EngineModel:
    make, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        make("Conv", ["planes", "weights"], ["logits"]),
        make("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
        make("Cast", ["classes"], ["mask"], to=TensorProto.UINT16),
    ]
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [info("image", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [info("mask", TensorProto.UINT16, ["batch", 8, 8])],
        [onnx.numpy_helper.from_array(WEIGHTS, "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return EngineModel(onnx=made.SerializeToString(), tensors=SPECS, source="a segmenter")


@pytest.mark.parametrize("name", [name for name in ENGINES if why_unavailable(name) is None])
def test_an_engine_gives_classes_above_255(model: EngineModel, name: str) -> None:
    expected = (PHOTOS.astype(np.float32) @ WEIGHTS[:, :, 0, 0].T).argmax(3)
    assert expected.max() > 255
    with engine_entry(name).engine_class()(model, EngineOptions(threads=1)) as engine:
        assert engine.outputs == SPECS[1:]
        mask = engine.infer({"image": PHOTOS})["mask"]
    assert mask.dtype == np.uint16
    np.testing.assert_array_equal(mask, expected)


@needs_tensorrt_rtx
def test_tensorrt_builds_what_its_parser_refuses(
    model: EngineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = build_request(TENSORRT_RTX, model, EngineOptions(), gpu=None)
    assert plan_from_graph(request).shares == {"fp32": 1.0}
    monkeypatch.setattr(build, "model_with_int32_outputs", lambda data: data)
    with pytest.raises(BundleError, match=r"does not support operator Cast of node .*; run the"):
        plan_from_graph(request)


class LoadedEngine:
    """What TensorRT says of an engine that was built from the graph with int32 outputs."""

    num_io_tensors = 2

    def __init__(self, trt: Any, mask: Any) -> None:
        self.dtypes = {"image": trt.UINT8, "mask": mask}
        self.modes = {"image": trt.INPUT, "mask": "output"}

    def get_tensor_name(self, number: int) -> str:
        return ("image", "mask")[number]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtypes[name]

    def get_tensor_mode(self, name: str) -> Any:
        return self.modes[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 8, 8, 3) if name == "image" else (-1, 8, 8)

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return [(count, 8, 8, 3) for count in (1, 8, 8)]


def test_tensorrt_says_uint16_where_the_bundle_does(model: EngineModel) -> None:
    types = SimpleNamespace(UINT8=1, INT32=2, INT64=3, HALF=4, FLOAT=5, INPUT="input")
    trt = SimpleNamespace(DataType=types, TensorIOMode=types)
    tensors = tensors_of_engine(trt, LoadedEngine(types, types.INT32), model)
    assert (tensors.outputs[0].dtype, tensors.results) == ("int32", SPECS[1:])
    plain = tensors_of_engine(trt, LoadedEngine(types, types.UINT8), model)
    assert plain.results == plain.outputs
