"""Which int8 graph an engine takes, of a bundle that has one for CPUs, one for TensorRT, both, or one that does not say."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.report import text_from_bundle
from dlcv.runtime.bundle.schema import Target, VariantName, precision_of
from dlcv.runtime.bundle.variants import is_narrow, variant_for
from dlcv.runtime.engines import ENGINES, EngineEntry, engine_model, load_engine
from dlcv.runtime.errors import BundleError
from dlcv.runtime.running.predictor import load

BOTH: list[VariantName] = ["fp32", "int8", "int8-tensorrt", "int8-cpu"]


def with_variants(folder: Path, names: list[VariantName]) -> Bundle:
    """A copy of a toy bundle with further variants; the files differ by a note in their graph."""
    toy = open_bundle(folder)
    graph = toy.graph()
    files = {name: toy.read(name) for name in toy.manifest.files}
    variants = dict(graph.variants)
    for name in names:
        file = f"model.{name}.onnx"
        variants[name] = msgspec.structs.replace(graph.variants["fp32"], file=file)
        note = name.encode()  # a ModelProto is read as a sequence of fields: 6 is its doc_string
        files[file] = files["model.onnx"] + bytes([6 << 3 | 2, len(note)]) + note
    graphs = {"model": msgspec.structs.replace(graph, variants=variants)}
    listed = dict.fromkeys(files, toy.manifest.files["model.onnx"])
    manifest = msgspec.structs.replace(toy.manifest, graphs=graphs, files=listed)
    return save_bundle(folder, manifest, files=files, overwrite=True)


@pytest.mark.parametrize(
    ("names", "target", "found"),
    [
        (["fp32"], "cpu", None),
        (["fp32", "int8"], "cpu", "int8"),
        (["fp32", "int8"], "tensorrt", "int8"),
        (["fp32", "int8-cpu"], "cpu", "int8-cpu"),
        (["fp32", "int8-cpu"], "tensorrt", None),
        (["fp32", "int8-tensorrt"], "cpu", "int8-tensorrt"),
        (["fp32", "int8-tensorrt"], "tensorrt", "int8-tensorrt"),
        (["int8-cpu", "int8"], "tensorrt", "int8"),
        (BOTH, "cpu", "int8-cpu"),
        (BOTH, "tensorrt", "int8-tensorrt"),
    ],
)
def test_the_best_int8_graph_for_a_target_is_found(
    names: list[VariantName], target: Target, found: VariantName | None
) -> None:
    assert variant_for(names, "int8", target=target) == found


def test_other_precisions_are_the_same_for_all_targets() -> None:
    assert variant_for(["fp32", "fp16"], "fp16", target="tensorrt") == "fp16"
    assert [precision_of(name) for name in ("fp16", "int8", "int8-cpu")] == ["fp16", "int8", "int8"]
    assert [name for name in BOTH if is_narrow(name)] == ["int8-cpu"]


def test_each_engine_takes_the_graph_that_is_made_for_it(new_bundle) -> None:
    bundle = with_variants(new_bundle(), BOTH[2:])
    assert bundle.graph().precisions == ("fp32", "int8")
    taken = {
        name: engine_model(bundle, precision="int8", target=entry.target).source.rpartition(": ")[2]
        for name, entry in ENGINES.items()
    }
    cpu, tensorrt = "model.int8-cpu.onnx", "model.int8-tensorrt.onnx"
    assert taken == {
        "ort": cpu,
        "openvino": cpu,
        "cuda": tensorrt,
        "trt": tensorrt,
        "trt-rtx": tensorrt,
    }
    assert EngineEntry(summary="", factory="", modules=(), install="").target == "cpu"


def test_results_say_int8_and_which_graph(new_bundle) -> None:
    bundle = with_variants(new_bundle(), BOTH[2:])
    with load(bundle, engine="ort", precision="int8") as model:
        ran = model.description()
    assert (ran["precision"], ran["variant"]) == ("int8", "int8-cpu")
    text = text_from_bundle(bundle)
    assert "model.int8-cpu.onnx, 0.0 MB, opset 18, for CPUs\n" in text
    assert "model.int8-tensorrt.onnx, 0.0 MB, opset 18, for TensorRT\n" in text


def test_an_older_bundle_serves_both_targets(new_bundle) -> None:
    bundle = with_variants(new_bundle(), ["int8"])
    targets: tuple[Target, ...] = get_args(Target)
    assert {bundle.variant("int8", target=t).file for t in targets} == {"model.int8.onnx"}
    with load_engine(bundle, "ort", precision="int8") as engine:
        assert engine.info.precision == "int8"


def test_tensorrt_is_not_given_the_graph_for_cpus(new_bundle) -> None:
    bundle = with_variants(new_bundle(), ["int8-cpu"])
    with pytest.raises(
        BundleError, match=r"int8 graph for CPUs only.*--to int8 --for tensorrt --calibrate IMAGES$"
    ):
        engine_model(bundle, precision="int8", target="tensorrt")


def test_a_precision_that_is_not_there_is_named(new_bundle) -> None:
    bundle = with_variants(new_bundle(), ["int8-cpu"])
    with pytest.raises(BundleError, match=r"has no fp16 graph, only fp32, int8-cpu$"):
        bundle.variant("fp16")
