"""OpenVINO gives the golden answers in every mode, says its precision, and survives a damaged cache."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines import EngineModel, EngineOptions, load_engine
from dlcv.runtime.engines import openvino as openvino_engine
from dlcv.runtime.engines.openvino import OpenVinoEngine
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError
from dlcv.runtime.measure.parity import replay_golden

openvino = pytest.importorskip("openvino")
UINT8, FLOAT, DOUBLE = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info


def model(nodes: list[Any], output: Any, **constants: Any) -> bytes:
    tensors = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = onnx.helper.make_graph(
        nodes, "g", [info("image", UINT8, ["batch", 2])], [output], tensors
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    made: bytes = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return made


def load(data: bytes, settings: Mapping[str, str] | None = None, **options: Any) -> OpenVinoEngine:
    tensors = (
        TensorSpec(name="image", dtype="uint8", shape=("batch", 2)),
        TensorSpec(name="y", dtype="float32", shape=("batch", 2)),
    )
    chosen = EngineOptions(settings={"cache": "false"} | dict(settings or {}), **options)
    return OpenVinoEngine(EngineModel(onnx=data, tensors=tensors), chosen)


CAST = model([make("Cast", ["image"], ["y"], to=FLOAT)], info("y", FLOAT, ["batch", 2]))


@pytest.mark.parametrize("mode", ["latency", "throughput"])
@pytest.mark.parametrize("name", ["cifar10-vit", "camvid-lraspp"])
def test_golden_cases_pass(name: str, mode: str) -> None:
    bundle, options = open_bundle(name), EngineOptions(threads=2, settings={"mode": mode})
    with load_engine(bundle, "openvino", options=options) as engine:
        assert replay_golden(bundle, engine).failures == ()
        assert engine.info.precision == "fp32"


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_batch_cut_into_parts_gives_the_answers_of_the_whole(batch: int) -> None:
    image = np.arange(batch * 2, dtype=np.uint8).reshape(batch, 2)
    with load(CAST, {"mode": "throughput"}, threads=2) as engine:
        assert engine.infer({"image": image})["y"].tolist() == image.tolist()


def test_a_tensor_that_has_two_names_goes_by_the_promised_one() -> None:
    nodes = [
        make("Cast", ["image"], ["half"], to=onnx.TensorProto.FLOAT16),
        make("Relu", ["half"], ["rectified"]),
        make("Cast", ["rectified"], ["y"], to=FLOAT),  # removed: this CPU computes in fp32
    ]
    with load(model(nodes, info("y", FLOAT, ["batch", 2]))) as engine:
        assert [str(spec) for spec in engine.outputs] == ["y: float32 (batch, 2)"]
        assert list(engine.infer({"image": np.ones((1, 2), np.uint8)})) == ["y"]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_results_are_not_overwritten_by_the_next_call(mode: str) -> None:
    with load(CAST, {"mode": mode}, threads=2) as engine:
        first = engine.infer({"image": np.full((2, 2), 1, np.uint8)})["y"]
        engine.infer({"image": np.full((2, 2), 2, np.uint8)})
    assert first.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "OpenVINO cannot load the graph"),
        (b"not onnx", "OpenVINO cannot load the graph"),
        (
            model([make("Unheard", ["image"], ["y"])], info("y", FLOAT, ["batch", 2])),
            "OpenVINO cannot load the graph: it has no operator Unheard",
        ),
        (
            model([make("Cast", ["image"], ["y"], to=FLOAT)], info("z", FLOAT, ["batch", 2])),
            "OpenVINO cannot load the graph: z node not found",
        ),
        (
            model([make("Cast", ["image"], ["y"], to=DOUBLE)], info("y", DOUBLE, ["batch", 2])),
            "tensor 'y' has type f64, which dlcv does not use",
        ),
    ],
)
def test_a_graph_that_cannot_be_loaded_is_a_bundle_error(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        load(data)
    assert "\n" not in str(caught.value)


def test_a_failure_while_running_is_an_engine_error() -> None:
    reshape = model(
        [make("Reshape", ["image", "s"], ["y"])], info("y", UINT8, [3, "n"]), s=np.array([3, -1])
    )
    with load(reshape) as engine, pytest.raises(EngineError, match=r"^OpenVINO failed: ") as caught:
        engine.infer({"image": np.zeros((2, 2), np.uint8)})
    assert "\n" not in str(caught.value)


def test_ctrl_c_is_heard_after_an_engine_was_freed_in_another_thread() -> None:
    code = """
import os, signal, threading
from dlcv.runtime.engines import EngineOptions, load_engine
from dlcv.runtime.bundle import open_bundle

engines = [load_engine(open_bundle("cifar10-vit"), "openvino", outputs=["probabilities"])]
freeing = threading.Thread(target=engines.clear)
freeing.start()
freeing.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (0, "heard\n"), ran.stderr


def test_int8_is_refused_where_its_sums_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = EngineModel(onnx=CAST, precision="int8")
    monkeypatch.setattr(openvino_engine, "lacks_vnni", lambda: True)
    with pytest.raises(EngineUnavailableError, match="this CPU has no VNNI"):
        OpenVinoEngine(int8, EngineOptions())
    narrow = EngineModel(onnx=CAST, precision="int8", narrow=True)  # its sums do not overflow
    with OpenVinoEngine(narrow, EngineOptions()) as engine:
        assert engine.info.precision == "int8"
    monkeypatch.setattr(openvino_engine, "lacks_vnni", lambda: False)
    with OpenVinoEngine(int8, EngineOptions()) as engine:
        assert engine.info.precision == "int8"


def with_resize() -> bytes:
    """Two int8 convolutions with biases, and a Resize whose sizes hold the batch."""
    draw, channels = np.random.default_rng(0), 8
    nodes = [
        make("Cast", ["image"], ["pixels"], to=FLOAT),
        make("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
        make("QuantizeLinear", ["x", "s.x", "zero"], ["x.q"]),
        make("DequantizeLinear", ["x.q", "s.x", "zero"], ["x.dq"]),
        make("DequantizeLinear", ["w1", "s.w"], ["w1.dq"], axis=0),
        make("Conv", ["x.dq", "w1.dq", "b1"], ["c1"]),
        make("Relu", ["c1"], ["r"]),
        make("QuantizeLinear", ["r", "s.r", "zero"], ["r.q"]),
        make("DequantizeLinear", ["r.q", "s.r", "zero"], ["r.dq"]),
        make("DequantizeLinear", ["w2", "s.w"], ["w2.dq"], axis=0),
        make("Conv", ["r.dq", "w2.dq", "b2"], ["c2"]),
        make("Shape", ["c2"], ["batch"], end=1),
        make("Concat", ["batch", "rest"], ["sizes"], axis=0),
        make("Resize", ["c2", "", "", "sizes"], ["y"], mode="linear"),
    ]
    constants: dict[str, Any] = {
        "s.x": np.array(1, np.float32),
        "s.r": np.array(6 / 255, np.float32),
        "s.w": np.full(channels, 5e-4, np.float32),
        "zero": np.array(0, np.uint8),
        "w1": draw.integers(-60, 60, (channels, 3, 3, 3)).astype(np.int8),
        "w2": draw.integers(-60, 60, (channels, channels, 3, 3)).astype(np.int8),
        "b1": draw.normal(2, 2, channels).astype(np.float32),
        "b2": draw.normal(0, 2, channels).astype(np.float32),
        "rest": np.array([channels, 16, 16]),
    }
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("image", UINT8, ["batch", 8, 8, 3])],
        [info("y", FLOAT, ["batch", channels, 16, 16])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    made: bytes = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return made


def test_an_int8_graph_with_a_resize_to_computed_sizes_keeps_its_biases() -> None:
    """OpenVINO alone loses them, and is wrong by .24: see `_fold_reshaped_constants`."""
    int8 = EngineModel(onnx=with_resize(), precision="int8", narrow=True)
    feeds = {"image": np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)}
    options = EngineOptions(settings={"cache": "false"})
    with OpenVinoEngine(int8, options) as engine, OrtEngine(int8, EngineOptions()) as exact:
        np.testing.assert_allclose(engine.infer(feeds)["y"], exact.infer(feeds)["y"], atol=1e-3)


def test_a_closed_engine_says_so() -> None:
    engine = load(CAST)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed; load the bundle again"):
        engine.infer({"image": np.zeros((1, 2), np.uint8)})


@pytest.mark.parametrize(("asked", "stated"), [("f16", "fp16"), ("bf16", "bf16")])
def test_a_lower_precision_is_stated_or_refused(asked: str, stated: str) -> None:
    capabilities = openvino_engine._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if stated.upper() in capabilities:
        assert load(CAST, {"precision": asked}).info.precision == stated
    else:  # it falls back to what it has: f32, or bf16 on a CPU with instructions for it
        message = f"computes in (f32|bf16) .*has no {asked}; leave out -E precision={asked}"
        with pytest.raises(InputError, match=message):
            load(CAST, {"precision": asked})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fastest"}, "a setting of engine 'openvino' does not fit"),
        ({"streams": "2"}, "no setting 'streams'; it has mode, precision, cache"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(CAST, settings)


class Told:
    """Remembers what an engine says while it loads."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, words: str, share: float | None) -> None:
        self.words.append(words)


@pytest.mark.parametrize("damage", ["truncated", "a wrong byte", "foreign"])
def test_a_damaged_cache_file_is_told_of_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    told, image = Told(), np.full((1, 2), 7, np.uint8)
    for _ in range(2):
        assert load(CAST, {"cache": "true"}, on_progress=told).infer({"image": image})["y"][0, 0]
    (entry,) = tmp_path.rglob("*.bin")
    good = entry.read_bytes()
    assert told.words == []
    middle = len(good) // 2
    entry.write_bytes(
        {
            "truncated": good[:middle],
            "a wrong byte": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "foreign": b"not ours",
        }[damage]
    )
    with load(CAST, {"cache": "true"}, on_progress=told) as engine:
        assert engine.infer({"image": image})["y"].tolist() == [[7, 7]]
    assert len(told.words) == 1
    assert "compiling: the cached file" in told.words[0]
    load(CAST, {"cache": "true"}, on_progress=told)
    assert len(told.words) == 1  # it was written anew


def test_what_another_build_of_openvino_wrote_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    load(CAST, {"cache": "true"})
    (entry,) = tmp_path.rglob("*.bin")
    header = json.loads(entry.read_bytes().partition(b"\n")[0])
    header["sha256"] = hashlib.sha256(b"of another build").hexdigest()
    entry.write_bytes(json.dumps(header).encode() + b"\nof another build")
    with load(CAST, {"cache": "true"}) as engine:
        assert engine.infer({"image": np.ones((1, 2), np.uint8)})["y"].tolist() == [[1, 1]]
    assert not entry.read_bytes().endswith(b"of another build")


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "file"))
    with load(CAST, {"cache": "true"}) as engine:
        assert engine.infer({"image": np.ones((1, 2), np.uint8)})["y"].tolist() == [[1, 1]]
