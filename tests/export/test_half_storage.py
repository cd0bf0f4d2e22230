"""Weights stored in fp16: what is stored, what float16 cannot hold, and that everything is computed in fp32 all the same."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlcv.export.bundle import export_bundle
from dlcv.export.half_storage import storage_of, stored_in_half
from dlcv.export.precision import PrecisionOptions, add_precision
from dlcv.export.writing import BundleOptions
from dlcv.runtime.bundle.onnx_protobuf import model_with_outputs
from dlcv.runtime.bundle.report import text_from_bundle
from dlcv.runtime.engines import EngineModel, EngineOptions, engine_model, load_engine
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import InputError
from dlcv.runtime.measure.parity import TOLERANCES, replay_golden, tolerances_of

make = helper.make_node
PIXELS = np.random.default_rng(1).integers(0, 256, (2, 32), dtype=np.uint8)


def random(*shape: int, scale: float = 0.1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0, scale, shape).astype(np.float32)


def model(
    nodes: list[Any] | None = None, outputs: tuple[str, ...] = ("scores",), **values: Any
) -> bytes:
    """Return a graph of uint8 (batch, 32): by default scores are pixels / 255 times `w`, plus `b`."""
    default = [
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("MatMul", ["pixels", "w"], ["products"]),
        make("Add", ["products", "b"], ["scores"]),
    ]
    values = {"w": random(32, 40), "b": random(40)} | values
    graph = helper.make_graph(
        nodes or default,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["batch", 40]) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in values.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def answers(data: bytes) -> dict[str, Any]:
    with OrtEngine(EngineModel(onnx=data), EngineOptions()) as engine:
        return engine.infer({"image": PIXELS})


def tensors(data: bytes) -> dict[str, TensorProto]:
    return {t.name: t for t in onnx.load_from_string(data).graph.initializer}


def test_large_weights_are_float16_and_each_has_a_cast_back_to_its_old_name() -> None:
    exact = model()
    stored = stored_in_half(exact)
    onnx.checker.check_model(onnx.load_from_string(stored.model), full_check=True)
    found = tensors(stored.model)
    assert {name: t.data_type for name, t in found.items()} == {"w.fp16": 10, "b": 1}
    first = onnx.load_from_string(stored.model).graph.node[0]
    assert (first.op_type, list(first.input), list(first.output)) == ("Cast", ["w.fp16"], ["w"])
    assert len(stored.model) < 0.65 * len(exact)
    assert (stored.is_exact, stored.kept) == (False, ())
    assert stored_in_half(exact) == stored  # the same bytes


def test_the_answers_are_those_of_rounded_weights_in_fp32() -> None:
    rounded = random(32, 40).astype(np.float16).astype(np.float32)
    stored = answers(stored_in_half(model()).model)["scores"]
    assert np.array_equal(stored, answers(model(w=rounded))["scores"])
    assert not np.array_equal(stored, answers(model())["scores"])


def test_weights_that_float16_holds_exactly_give_the_same_answers() -> None:
    exact = model(w=random(32, 40).astype(np.float16).astype(np.float32))
    stored = stored_in_half(exact)
    assert stored.is_exact
    assert np.array_equal(answers(stored.model)["scores"], answers(exact)["scores"])


def test_small_tensors_and_those_of_one_axis_stay_float32() -> None:
    small = model(w=random(25, 40), b=random(2000))
    assert stored_in_half(small).model == small
    assert storage_of(small) == "fp32"


def column(*, scale: float, times: float) -> Any:
    """Return weights of which one output's are smaller than the others'."""
    weights = random(32, 40, scale=scale)
    weights[:, 7] *= times
    return weights


@pytest.mark.parametrize(
    ("weights", "is_kept"),
    [
        (random(32, 40) + np.eye(32, 40, dtype=np.float32) * 70_000, True),  # over 65,504
        (np.where(np.eye(32, 40) > 0, np.float32(np.nan), random(32, 40)), True),
        (random(32, 40, scale=1e-6), True),  # all of it below 2^-14
        (random(32, 40, scale=1e-4), False),
        (column(scale=1e-4, times=0.01), True),  # one output's below it, of a size that may matter
        (column(scale=0.1, times=1e-6), False),  # an output that training has switched off
        (random(32, 40, scale=30.0), False),
        (np.zeros((32, 40), np.float32), False),
    ],
)
def test_what_float16_cannot_hold_stays_float32(weights: Any, is_kept: bool) -> None:
    stored = stored_in_half(model(w=weights.astype(np.float32)))
    assert stored.kept == (("w",) if is_kept else ())
    assert storage_of(stored.model) == ("fp32" if is_kept else "fp16")


def test_a_shared_tensor_has_one_cast_and_a_taken_name_is_not_taken_twice() -> None:
    nodes = [
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("MatMul", ["pixels", "w"], ["w.fp16"]),
        make("MatMul", ["pixels", "w"], ["again"]),
        make("Add", ["w.fp16", "again"], ["scores"]),
    ]
    exact = model(nodes)
    stored = stored_in_half(exact).model
    onnx.checker.check_model(onnx.load_from_string(stored), full_check=True)
    casts = [n for n in onnx.load_from_string(stored).graph.node if n.op_type == "Cast"]
    assert [list(n.input) for n in casts] == [["w.fp16_1"], ["image"]]
    assert np.allclose(answers(stored)["scores"], answers(exact)["scores"], rtol=1e-2, atol=0.5)


def test_constant_nodes_are_stored_too() -> None:
    value = numpy_helper.from_array(random(32, 40))
    nodes = [
        make("Constant", [], ["inner"], value=value),
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("MatMul", ["pixels", "inner"], ["scores"]),
    ]
    stored = stored_in_half(model(nodes))
    assert "inner.fp16" in tensors(stored.model)
    assert storage_of(stored.model) == "fp16"


def test_a_graph_that_computes_in_fp16_is_not_one_that_stores_so() -> None:
    nodes = [
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT16),
        make("MatMul", ["pixels", "w"], ["products"]),
        make("Cast", ["products"], ["scores"], to=TensorProto.FLOAT),
    ]
    assert storage_of(model(nodes, w=random(32, 40).astype(np.float16))) == "fp32"


def test_weights_of_an_output_that_is_cut_away_go_with_their_cast() -> None:
    nodes = [
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("MatMul", ["pixels", "w"], ["scores"]),
        make("MatMul", ["pixels", "other"], ["unwanted"]),
    ]
    exact = model(nodes, outputs=("scores", "unwanted"), other=random(32, 40))
    stored = stored_in_half(exact).model
    cut = model_with_outputs(stored, ["scores"])
    assert set(tensors(cut)) == {"w.fp16"}
    assert np.array_equal(answers(cut)["scores"], answers(stored)["scores"])


@pytest.fixture(scope="module")
def bundle(make_source: Any, tmp_path_factory: Any) -> Any:
    """A tiny ViT with its weights in fp16."""
    out = tmp_path_factory.mktemp("half") / "vit"
    return export_bundle(make_source("vit"), out, BundleOptions(weights="fp16"))


def test_a_bundle_says_it_in_the_manifest_in_its_card_and_in_info(bundle: Any) -> None:
    variant = bundle.variant("fp32")
    assert variant.weights == "fp16"
    assert storage_of(bundle.read(variant.file)) == "fp16"
    card = bundle.read("README.md").decode()
    assert "## Weights\n\nStored in fp16, computed in fp32" in card
    assert "--store-weights fp16 -o tiny-vit" in card
    assert "weights stored in fp16, computed in fp32" in " ".join(text_from_bundle(bundle).split())


def test_the_gate_and_the_golden_cases_have_the_tolerances_of_fp16(bundle: Any) -> None:
    allowed = TOLERANCES["fp16"]["probabilities"].max_difference
    parity = bundle.variant().parity
    assert parity.outputs["probabilities"].max_difference_allowed == allowed
    assert " cpu fp32" in parity.engine
    with load_engine(bundle, "ort") as engine:
        replayed = replay_golden(bundle, engine)
    assert not replayed.failures
    assert replayed.outputs["probabilities"].max_difference_allowed == allowed


def test_only_rounded_weights_of_fp32_have_other_tolerances() -> None:
    assert tolerances_of("fp32", weights="fp16") is TOLERANCES["fp16"]
    assert tolerances_of("fp32") is TOLERANCES["fp32"]
    assert tolerances_of("int8", weights="fp16") is TOLERANCES["int8"]


def test_openvino_computes_in_fp32(bundle: Any) -> None:
    pytest.importorskip("openvino")
    case = next(bundle.golden())
    with load_engine(bundle, "ort") as ort, load_engine(bundle, "openvino") as openvino:
        assert openvino.info.precision == "fp32"
        expected, found = ort.infer(case.inputs), openvino.infer(case.inputs)
    for name, tolerance in TOLERANCES["fp32"].items():
        if name in expected and tolerance.max_difference is not None:
            limit = tolerance.max_difference * max(1.0, float(np.abs(expected[name]).max()))
            assert float(np.abs(expected[name] - found[name]).max()) <= limit, name


def test_tensorrt_builds_it_and_computes_in_fp32(
    bundle: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    pytest.importorskip("tensorrt_rtx")
    from dlcv.runtime.engines.tensorrt.api import TENSORRT_RTX
    from dlcv.runtime.engines.tensorrt.build import plan_from_graph
    from dlcv.runtime.engines.tensorrt.engine import build_request

    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    request = build_request(TENSORRT_RTX, engine_model(bundle), EngineOptions(), gpu=None)
    plan = plan_from_graph(request)
    assert (plan.precision, plan.shares) == ("fp32", {"fp32": 1.0})


def test_a_lower_precision_is_made_of_it(bundle: Any, tmp_path: Any) -> None:
    made = add_precision(
        bundle.path, PrecisionOptions(precision="fp16", out=tmp_path / "with-fp16")
    )
    nodes = onnx.load_from_string(made.read(made.variant("fp16").file)).graph.node
    constants = tensors(made.read(made.variant("fp16").file))
    casts = [n.input[0] for n in nodes if n.op_type == "Cast" and n.input[0] in constants]
    assert not casts  # weights are constants of the type that is computed in
    assert made.variant("fp16").weights == "fp32"


def test_a_network_without_large_weights_is_refused(make_source: Any, tmp_path: Any) -> None:
    with pytest.raises(InputError, match="no large part of the weights is float32 that float16"):
        export_bundle(make_source("cnn"), tmp_path / "out", BundleOptions(weights="fp16"))
    assert not (tmp_path / "out").exists()
