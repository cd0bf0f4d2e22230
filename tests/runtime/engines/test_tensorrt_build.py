"""TensorRT-RTX really builds the built-in bundles here, without a GPU; each failure is one clear sentence."""

import dataclasses
import gc
import os
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlcv.runtime import open_bundle
from dlcv.runtime.bundle.schema import Plan, Precision
from dlcv.runtime.engines import EngineModel, EngineOptions, engine_model
from dlcv.runtime.engines.base import StoredPlan
from dlcv.runtime.engines.tensorrt import build
from dlcv.runtime.engines.tensorrt.api import (
    TENSORRT,
    TENSORRT_RTX,
    new_logger,
    require_gpu,
    started,
)
from dlcv.runtime.engines.tensorrt.build import BuildRequest, plan_from_graph
from dlcv.runtime.engines.tensorrt.compatibility import plan_fields
from dlcv.runtime.engines.tensorrt.engine import build_request
from dlcv.runtime.engines.tensorrt.plans import loaded_engine, plan_key
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError
from dlcv.runtime.machine.cache import lookup
from dlcv.runtime.machine.gpu import Driver, Gpu

pytest.importorskip("tensorrt_rtx")
BUILTINS = ("cifar10-vit", "camvid-lraspp")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


def half_model(data: bytes) -> bytes:
    """Return a graph in half precision inside, with the same inputs and outputs. Good enough to be built."""
    model = onnx.load_from_string(data)
    graph = model.graph
    scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if node.op_type == "Constant" and attribute.t.data_type == TensorProto.FLOAT:
                half = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(half))
    floats = [o.name for o in graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_half" if name in floats else name for name in names]
    casts = [
        helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT) for name in floats
    ]
    graph.node.extend(casts)
    made: bytes = model.SerializeToString()
    return made


def request_for(
    model: EngineModel, *, told: list[Any] | None = None, **options: Any
) -> BuildRequest:
    def tell(words: str, share: float | None) -> None:
        if told is not None:
            told.append((words, share))

    return build_request(TENSORRT_RTX, model, EngineOptions(on_progress=tell, **options), gpu=None)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", BUILTINS)
def test_a_builtin_bundle_builds_in_its_precision(name: str, precision: Precision) -> None:
    model = engine_model(open_bundle(name))
    if precision == "fp16":
        model = dataclasses.replace(model, onnx=half_model(model.onnx), precision="fp16")
    told: list[Any] = []
    plan = plan_from_graph(request_for(model, told=told))
    assert plan.precision == precision
    assert plan.shares == {precision: 1.0}
    assert len(plan.data) > 10**6
    shares = [share for _, share in told]
    assert told[0][0] == "building the TensorRT-RTX engine"
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_graph_of_fp32_that_claims_fp16_is_refused() -> None:
    model = engine_model(open_bundle("camvid-lraspp"))
    wrong = dataclasses.replace(model, precision="fp16")
    with pytest.raises(BundleError, match=r"asked for fp16, but none .* \(fp32 100%\); export"):
        plan_from_graph(request_for(wrong))


def graph_of(nodes: list[Any], *, dtype: int = TensorProto.FLOAT, **constants: Any) -> EngineModel:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 4, 3])
    output = helper.make_tensor_value_info("y", dtype, None)
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [image], [output], tensors)
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return EngineModel(onnx=model.SerializeToString(), source="a graph")


CAST = helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            graph_of([helper.make_node("Unheard", ["image"], ["y"], name="node_7")]),
            "a graph: TensorRT-RTX does not support operator Unheard of node 'node_7'; run",
        ),
        (
            graph_of([CAST, helper.make_node("Det", ["x"], ["y"], name="my_det")]),
            "TensorRT-RTX does not support operator Det of node 'my_det'; run the graph on",
        ),
        (
            graph_of([helper.make_node("Transpose", ["image"], ["y"], name="turn")]),
            r"operator Transpose of node 'turn' \(.*first input has type UInt8",
        ),
        (
            EngineModel(onnx=b"not onnx", source="a graph"),
            "a graph: TensorRT-RTX cannot read the graph: .*Failed to parse the ONNX model",
        ),
        (
            graph_of(
                [CAST, helper.make_node("Reshape", ["x", "to"], ["y"], name="fold")], to=[5, -1]
            ),
            "a graph: TensorRT-RTX cannot build the graph: .*fold",
        ),
        (
            graph_of([helper.make_node("Cast", ["image"], ["y"], to=TensorProto.BOOL)]),
            "a graph: tensor 'y' is BOOL, which dlcv does not use",
        ),
    ],
)
def test_a_graph_that_does_not_build_is_refused_in_one_sentence(
    model: EngineModel, message: str
) -> None:
    with pytest.raises(BundleError, match=message) as raised:
        plan_from_graph(request_for(model))
    assert "\n" not in str(raised.value)
    assert "/_src/" not in str(raised.value)


def test_a_refused_build_leaves_no_builder_to_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that a collection frees inside TensorRT's logger waits for ever for the lock that TensorRT holds."""

    def noted_logger(trt: Any) -> Any:
        logger = new_logger(trt)
        loggers.append(weakref.ref(logger))  # a builder keeps its logger alive
        return logger

    loggers: list[weakref.ref[Any]] = []
    monkeypatch.setattr(build, "new_logger", noted_logger)
    gc.disable()
    try:
        with pytest.raises(BundleError) as raised:
            plan_from_graph(request_for(EngineModel(onnx=b"not onnx", source="a graph")))
        assert [logger() for logger in loggers] == [None]
        assert raised.value.__traceback__ is not None
    finally:
        gc.enable()


def test_an_unknown_compute_capability_is_refused() -> None:
    model = graph_of([helper.make_node("Cast", ["image"], ["y"], to=TensorProto.FLOAT)])
    with pytest.raises(InputError, match=r"builds for compute capabilities 75, .* not 90"):
        plan_from_graph(request_for(model, settings={"compute_capabilities": "90"}))


def test_ctrl_c_stops_a_build_and_is_heard_again_afterwards() -> None:
    def interrupt(_: str, share: float | None) -> None:
        if share is not None and not pressed:
            pressed.append(share)
            os.kill(os.getpid(), signal.SIGINT)

    pressed: list[float] = []
    handler = signal.getsignal(signal.SIGINT)
    model = engine_model(open_bundle("camvid-lraspp"))
    options = EngineOptions(on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan_from_graph(build_request(TENSORRT_RTX, model, options, gpu=None))
    assert pressed
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_api_that_does_not_start_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(TENSORRT, module="dlcv_has_no_such_module")
    with pytest.raises(EngineUnavailableError, match=r"does not start .*pip install 'dlcv\[trt\]'"):
        build_request(broken, EngineModel(onnx=b""), EngineOptions(), gpu=None)


# Where a plan comes from


@dataclasses.dataclass
class Builder:
    """Builds b"plan 1", b"plan 2" and so on."""

    built: int = 0

    def __call__(self) -> bytes:
        self.built += 1
        return f"plan {self.built}".encode()


def stored_plan(request: BuildRequest, **changes: str) -> StoredPlan:
    plan = Plan(
        file="plans/a.plan",
        engine="trt-rtx",
        graph_sha256=plan_key(request).subject,
        fields=request.fields | changes,
    )
    return StoredPlan(plan=plan, read=lambda: b"the bundle's")


def load(
    request: BuildRequest,
    build: Builder,
    *,
    refuses: tuple[bytes, ...] = (),
    why: str = "another driver",
) -> Any:
    return loaded_engine(
        request,
        gpu=None,
        build=build,
        deserialize=lambda data: None if data in refuses else data.decode(),
        why=lambda: why,
    )


MODEL = EngineModel(onnx=b"a graph")


def test_a_plan_is_built_once_and_the_reason_is_said() -> None:
    told: list[Any] = []
    request, build = request_for(MODEL, told=told), Builder()
    assert [load(request, build), load(request, build)] == ["plan 1", "plan 1"]
    assert told == [("building the TensorRT-RTX engine: none is cached", None)]


def test_a_plan_of_another_version_is_not_loaded() -> None:
    told: list[Any] = []
    request, build = request_for(MODEL, told=told), Builder()
    older = dataclasses.replace(request, fields=request.fields | {"version": "1.0"})
    load(older, build)
    assert load(request, build) == "plan 2"
    assert "the cached one has version 1.0, not" in told[-1][0]


def test_a_damaged_cache_file_is_said_and_built_anew() -> None:
    told: list[Any] = []
    request, build = request_for(MODEL, told=told), Builder()
    load(request, build)
    path = plan_key(request).path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert load(request, build) == "plan 2"
    assert "is damaged (its SHA-256 is another), and was deleted" in told[-1][0]
    assert lookup(plan_key(request)).data == b"plan 2"


def test_a_cached_plan_that_does_not_load_is_built_again_once() -> None:
    told: list[Any] = []
    request, build = request_for(MODEL, told=told), Builder()
    load(request, build)
    assert load(request, build, refuses=(b"plan 1",)) == "plan 2"
    assert any("does not load" in words for words, _ in told)
    with pytest.raises(EngineError, match="does not load the engine that it has just built"):
        load(request, build, refuses=(b"plan 2", b"plan 3"))
    assert build.built == 3


def test_a_full_gpu_deletes_and_builds_nothing() -> None:
    request, build = request_for(MODEL), Builder()
    load(request, build)
    with pytest.raises(EngineError, match=r"memory does not do .*out of memory.*; free some"):
        load(request, build, refuses=(b"plan 1",), why="CUDA error 2: out of memory")
    assert build.built == 1
    assert load(request, build) == "plan 1", "the plan is still there"


def test_a_plan_is_replaced_only_by_one_that_loads() -> None:
    told: list[Any] = []
    request, build = request_for(MODEL, told=told), Builder()
    load(request, build)
    with pytest.raises(EngineError, match=r"just built \(another driver\)"):
        load(request, build, refuses=(b"plan 1", b"plan 2"))
    assert "does not load: another driver" in told[-1][0]
    assert lookup(plan_key(request)).data == b"plan 1"


def test_a_builder_that_does_not_start_is_one_sentence() -> None:
    def factory(_: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    logger = SimpleNamespace(errors=[])
    with pytest.raises(
        EngineUnavailableError, match=r"does not start here .*nullptr.*dlcv-infer doctor"
    ):
        started(factory, logger, flavour=TENSORRT)
    logger.errors.append("CUDA initialization failure with error 35")
    with pytest.raises(EngineUnavailableError, match="initialization failure with error 35"):
        started(factory, logger, flavour=TENSORRT)


def test_a_gpu_of_before_turing_is_refused() -> None:
    gpu = Gpu(index=0, name="V100", compute_capability=(7, 0), memory_bytes=2**34)
    driver = Driver(cuda=(13, 1), gpus=(gpu,), fault=None)
    with pytest.raises(
        EngineUnavailableError, match=r"V100 .* too old for TensorRT, which needs .* 7\.5"
    ):
        require_gpu(driver, 0, flavour=TENSORRT)


def test_the_plan_of_a_bundle_is_used_if_it_fits() -> None:
    request, build = request_for(MODEL), Builder()
    model = dataclasses.replace(MODEL, plans=(stored_plan(request, profile="batch 1,8,64"),))
    assert load(dataclasses.replace(request, model=model), build) == "the bundle's"
    assert build.built == 0


def test_a_plan_of_a_bundle_that_does_not_fit_is_not_even_read() -> None:
    told: list[Any] = []
    request, build = request_for(MODEL, told=told), Builder()

    def read() -> bytes:
        raise AssertionError("read")

    foreign = dataclasses.replace(stored_plan(request, version="1.0"), read=read)
    model = dataclasses.replace(MODEL, plans=(foreign,))
    assert load(dataclasses.replace(request, model=model), build) == "plan 1"
    assert "the bundle's plans/a.plan is not used: its version is 1.0, not" in told[0][0]


def test_a_cache_that_cannot_be_written_is_said_and_the_engine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "file"))
    told: list[Any] = []
    assert load(request_for(MODEL, told=told), Builder()) == "plan 1"
    assert "will be built again next time: cannot write to the cache" in told[-1][0]


def test_every_field_is_part_of_the_key() -> None:
    request = request_for(MODEL)
    paths = {plan_key(request).path}
    for name in request.fields:
        changed = dataclasses.replace(request, fields=request.fields | {name: "other"})
        paths.add(plan_key(changed).path)
    assert len(paths) == 1 + len(request.fields)
    assert plan_fields.__kwdefaults__ is None  # nothing that it depends on has a default
