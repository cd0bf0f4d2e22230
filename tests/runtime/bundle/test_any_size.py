"""What a manifest says of a graph that resizes by itself, and who loads it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.any_size import LARGEST_PHOTO, any_size_tensors
from dlcv.runtime.bundle.manifest import json_from_manifest, manifest_from_json
from dlcv.runtime.bundle.report import text_from_bundle
from dlcv.runtime.bundle.schema import AnySize, VariantName
from dlcv.runtime.engines import (
    Choice,
    EngineInfo,
    EngineModel,
    any_size,
    any_size_model,
    load_any_size,
)
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import BundleError, EngineUnavailableError, InputError

NewBundle = Callable[..., Path]
FILE = "model.any-size.onnx"


def with_any_size(path: Path, *, variant: VariantName = "fp32") -> Bundle:
    """A copy of a toy bundle whose own graph stands for the one that resizes."""
    toy = open_bundle(path)
    graph = toy.graph()
    files = {name: toy.read(name) for name in toy.manifest.files}
    files[FILE] = files["model.onnx"]
    made = AnySize(file=FILE, opset=18, variant=variant, parity=graph.variants["fp32"].parity)
    graphs = {"model": msgspec.structs.replace(graph, any_size=made)}
    listed = dict.fromkeys(files, toy.manifest.files["model.onnx"])
    manifest = msgspec.structs.replace(toy.manifest, graphs=graphs, files=listed)
    return save_bundle(path, manifest, files=files, overwrite=True)


def edit_graph(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["graphs"]["model"]["any_size"].update(changes)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_manifest_without_it_is_as_before(new_bundle: NewBundle) -> None:
    path = new_bundle()
    assert b"any_size" not in (path / "manifest.json").read_bytes()
    assert open_bundle(path).graph().any_size is None


def test_a_manifest_with_it_is_read_as_it_was_written(new_bundle: NewBundle) -> None:
    bundle = with_any_size(new_bundle())
    assert manifest_from_json(json_from_manifest(bundle.manifest)) == bundle.manifest
    assert open_bundle(bundle.path).graph().any_size == bundle.graph().any_size
    assert f"{FILE}, 0.0 MB, opset 18: the fp32 graph with the resize inside" in (
        text_from_bundle(bundle)
    )


def test_its_file_is_verified_like_the_others(new_bundle: NewBundle) -> None:
    bundle = with_any_size(new_bundle())
    (bundle.path / FILE).write_bytes(b"other bytes")
    with pytest.raises(BundleError, match=rf"{FILE} is not the file that was exported"):
        open_bundle(bundle.path)
    (bundle.path / FILE).unlink()
    with pytest.raises(BundleError, match=rf"{FILE} is missing"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "gone.onnx"}, "'files' does not list 'gone.onnx'"),
        ({"variant": "int8-cpu"}, "is of the variant 'int8-cpu', which the graph lacks"),
        ({"size": 3}, "unknown field `size`"),
    ],
)
def test_what_does_not_fit_is_refused(
    new_bundle: NewBundle, changes: dict[str, Any], message: str
) -> None:
    bundle = with_any_size(new_bundle())
    edit_graph(bundle.path, **changes)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_a_graph_that_takes_no_images_has_none(caption_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((caption_bundle / "manifest.json").read_text())
    decoder = manifest["graphs"]["decoder"]
    decoder["any_size"] = {
        "file": "decoder.onnx",
        "opset": 18,
        "variant": "fp32",
        "parity": decoder["variants"]["fp32"]["parity"],
    }
    with pytest.raises(BundleError, match="graph 'decoder' takes no images, so it has no 'any_siz"):
        manifest_from_json(json.dumps(manifest).encode())


def test_its_tensors_are_those_of_one_photo(segment_bundle: Path) -> None:
    described = any_size_tensors(open_bundle(segment_bundle).graph())
    assert list(map(str, described.inputs)) == ["image: uint8 (1, height, width, 3)"]
    assert list(map(str, described.outputs)) == [
        "mask: uint8 (1, input_height, input_width)",
        "confidence: float32 (1, input_height, input_width)",
    ]


def test_an_engine_expects_photos_of_up_to_4096(new_bundle: NewBundle) -> None:
    bundle = with_any_size(new_bundle())
    model = any_size_model(bundle, outputs=["probabilities"])
    assert (model.largest, model.multiple, model.precision) == (LARGEST_PHOTO, 1, "fp32")
    assert model.source.endswith(FILE)
    assert any_size_model(bundle, largest=(90, 80)).largest == (90, 80)


def test_a_file_unlike_its_tensors_is_refused_when_it_is_loaded(new_bundle: NewBundle) -> None:
    bundle = with_any_size(new_bundle())
    with pytest.raises(
        BundleError, match=r"the graph has \(image: uint8 \(batch, 8, 8, 3\)\) where"
    ):
        load_any_size(bundle, "ort")


def test_lower_arithmetic_is_refused(
    new_bundle: NewBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lowered(choice: Choice, model: EngineModel) -> OrtEngine:
        engine = OrtEngine(model, choice.options)
        engine._info = EngineInfo(name="ort", version="1", device="cpu", precision="bf16")
        return engine

    monkeypatch.setattr(any_size, "started", lowered)
    with pytest.raises(
        InputError, match=r"is fp32 and its resize needs that, but .* in bf16; leave"
    ):
        load_any_size(with_any_size(new_bundle()), "ort")


def test_who_cannot_run_it_says_why(new_bundle: NewBundle) -> None:
    bundle = with_any_size(new_bundle())
    with pytest.raises(EngineUnavailableError, match="unknown engine 'vulkan'"):
        load_any_size(bundle, "vulkan")
    graph = bundle.graph()
    variants = {"int8-cpu": graph.variants["fp32"]}
    assert graph.any_size is not None
    made = msgspec.structs.replace(graph.any_size, variant="int8-cpu")
    graphs = {"model": msgspec.structs.replace(graph, any_size=made, variants=variants)}
    manifest = msgspec.structs.replace(bundle.manifest, graphs=graphs)
    with pytest.raises(BundleError, match="is int8-cpu, whose zero points TensorRT refuses"):
        any_size_model(replace(bundle, manifest=manifest), target="tensorrt")
