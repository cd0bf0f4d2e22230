"""Each way in which ONNX Runtime fails becomes one of our errors, in one sentence."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.engines import (
    EngineModel,
    EngineOptions,
    engine_model,
    load_engine,
    registry,
    why_unavailable,
)
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError

UINT8, FLOAT, DOUBLE = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


def model(nodes: list[Any], output: Any, *, opset: int = 18, **constants: Any) -> bytes:
    image = onnx.helper.make_tensor_value_info("image", UINT8, ["batch", 2])
    tensors = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", [image], [output], tensors)
    opsets = [onnx.helper.make_opsetid("", opset)]
    made: bytes = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return made


def load(data: bytes) -> OrtEngine:
    return OrtEngine(EngineModel(onnx=data), EngineOptions(threads=1))


def info(name: str, dtype: int, shape: list[Any]) -> Any:
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


CAST = onnx.helper.make_node("Cast", ["image"], ["y"], to=FLOAT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ONNX Runtime cannot load the graph"),
        (b"not onnx", "ONNX Runtime cannot load the graph"),
        (model([CAST], info("z", FLOAT, ["batch", 2])), "ONNX Runtime cannot load the graph"),
        (
            model([onnx.helper.make_node("Unheard", ["image"], ["y"])], info("y", FLOAT, [1])),
            "ONNX Runtime cannot load the graph: .*Unheard",
        ),
        (
            model([CAST], info("y", FLOAT, ["batch", 2]), opset=99),
            "ONNX Runtime cannot load the graph: .*Opset 99",
        ),
        (
            model(
                [onnx.helper.make_node("Cast", ["image"], ["y"], to=DOUBLE)],
                info("y", DOUBLE, ["batch", 2]),
            ),
            r"tensor 'y' has type tensor\(double\), which dlcv does not use",
        ),
    ],
)
def test_a_graph_that_cannot_be_loaded_is_a_bundle_error(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        load(data)
    assert "\n" not in str(caught.value)


def test_a_failure_while_running_is_an_engine_error() -> None:
    reshape = onnx.helper.make_node("Reshape", ["image", "shape"], ["y"])
    data = model([reshape], info("y", UINT8, [3, "n"]), shape=np.array([3, -1]))
    with load(data) as engine:
        assert engine.infer({"image": np.zeros((3, 2), np.uint8)})["y"].shape == (3, 2)
        with pytest.raises(EngineError, match=r"^ONNX Runtime failed: .*Reshape") as caught:
            engine.infer({"image": np.zeros((2, 2), np.uint8)})
    assert "\n" not in str(caught.value)


def test_a_closed_engine_says_so() -> None:
    engine = load(model([CAST], info("y", FLOAT, ["batch", 2])))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed; load the bundle again"):
        engine.infer({"image": np.zeros((1, 2), np.uint8)})


def test_results_are_not_overwritten_by_the_next_call() -> None:
    with load(model([CAST], info("y", FLOAT, ["batch", 2]))) as engine:
        first = engine.infer({"image": np.full((1, 2), 1, np.uint8)})["y"]
        engine.infer({"image": np.full((1, 2), 2, np.uint8)})
    assert first.tolist() == [[1, 1]]


def test_without_onnx_runtime_the_sentence_names_the_extra(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in ("ort", "auto"):
        with pytest.raises(
            EngineUnavailableError, match=r"not installed; get it with pip install 'dlcv"
        ):
            load_engine(open_bundle(classify_bundle), name)


def test_two_onnx_runtimes_at_once_are_refused_with_the_mending_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "installed_version", lambda name: "1.31.1")
    assert "overwrite each other; run pip uninstall" in str(why_unavailable("ort"))


def test_a_thread_count_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="threads must be 1 or more, not 0"):
        EngineOptions(threads=0)


def test_the_int8_setting_changes_no_bit_of_an_fp32_graph() -> None:
    given = engine_model(open_bundle("cifar10-vit"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(given.onnx, options, providers=["CPUExecutionProvider"])
    feeds = {"image": np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)}
    with OrtEngine(given, EngineOptions(threads=1)) as engine:
        answers = engine.infer(feeds)
    for expected, answer in zip(plain.run(list(answers), feeds), answers.values(), strict=True):
        np.testing.assert_array_equal(answer, expected)
