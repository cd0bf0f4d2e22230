"""A bundle gets a graph that resizes by itself, if its answers are those of the way over the host."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from dlcv.export.any_size import AnySizeOptions, add, add_any_size
from dlcv.export.any_size.compose import resizing_model
from dlcv.export.any_size.gate import photos_from
from dlcv.export.precision import PrecisionOptions, add_precision
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.manifest import CARD_FILE
from dlcv.runtime.bundle.report import text_from_bundle
from dlcv.runtime.bundle.schema import Preprocessing, TensorSpec
from dlcv.runtime.engines import load_any_size, load_engine
from dlcv.runtime.errors import BundleError, InputError, OutputError, ParityError
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths

NewBundle = Callable[..., Path]
AnySizeBundle = Callable[[str], Bundle]


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("name", ["imagenet-lite0", "voc-deeplab"])
def test_a_bundle_that_ships_answers_photos_as_they_are(
    any_size_bundle: AnySizeBundle, name: str, engine: str
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    bundle = any_size_bundle(name)
    preprocessing = bundle.manifest.preprocessing
    with (
        load_engine(bundle, engine) as own,
        load_any_size(bundle, engine) as any_size,
    ):
        for photo in photos_from(sample_paths()[:3], preprocessing):
            resized = load_pixels(photo.pixels, preprocessing).pixels
            expected = own.infer({"image": resized[None]})
            received = any_size.infer({"image": photo.pixels[None]})
            assert received.keys() == expected.keys()
            answer = "mask" if name == "voc-deeplab" else "probabilities"
            if answer == "mask":
                assert received[answer].shape == (1, *resized.shape[:2])
                assert np.mean(received[answer] == expected[answer]) > 0.999
            else:
                assert received[answer].argmax() == expected[answer].argmax()
                np.testing.assert_allclose(received[answer], expected[answer], atol=0.02)


def test_the_manifest_the_card_and_info_say_what_was_measured(
    any_size_bundle: AnySizeBundle,
) -> None:
    bundle = any_size_bundle("imagenet-lite0")
    made = bundle.graph().any_size
    assert made is not None
    assert (made.file, made.variant) == ("model.any-size.onnx", "fp32")
    assert made.parity.outputs["resized"].max_difference <= 1
    assert made.parity.outputs["probabilities"].agreement == 1
    assert "Pillow" in made.parity.reference
    assert len(made.parity.input_shapes) >= 2
    graph = onnx.load_from_string(bundle.read(made.file)).graph
    assert [output.name for output in graph.output] == [s.name for s in bundle.graph().outputs]
    line = "model.any-size.onnx, "
    assert line in bundle.read(CARD_FILE).decode()
    assert line in text_from_bundle(bundle)
    assert "| resized | 1.0e+00 (at most 1) |" in bundle.read(CARD_FILE).decode()


def test_only_operators_that_every_engine_takes_are_added() -> None:
    bundle = open_bundle("imagenet-lite0")
    own = onnx.load_from_string(bundle.read(bundle.variant().file))
    for preprocessing in (
        bundle.manifest.preprocessing,
        Preprocessing(resize="letterbox", size=(224, 224), resample="lanczos"),
    ):
        data = resizing_model(own.SerializeToString(), bundle.graph(), preprocessing)
        model = onnx.load_from_string(data)
        added = [node for node in model.graph.node if node.name.startswith("any_size/")]
        assert {node.domain for node in added} == {""}
        assert not {node.op_type for node in added} & {"Resize", "If", "Loop", "Scan"}
        assert added[0].op_type == "Cast"
        assert [node.op_type for node in added if "image" in node.input] == ["Cast"]
        assert list(model.opset_import) == list(own.opset_import)


@pytest.mark.parametrize("task", ["classify", "segment"])
@pytest.mark.parametrize("changes", [{}, {"resample": "lanczos"}, {"resample": "bicubic"}], ids=str)
def test_a_made_bundle_is_changed_in_its_place(
    new_bundle: NewBundle, task: str, changes: dict[str, Any]
) -> None:
    kind = {"classify": "center_crop", "segment": "longest_side"}[task]
    size: dict[str, Any] = {
        "classify": {"size": (8, 8), "crop_fraction": 0.8},
        "segment": {"size": (64, 64), "multiple": 8},
    }[task]
    path = new_bundle(task, preprocessing=Preprocessing(resize=kind, **size, **changes))  # type: ignore[arg-type]
    (path / "notes.txt").write_text("mine")
    add_any_size(path, AnySizeOptions())
    again = add_any_size(path, AnySizeOptions())  # replaces its own
    assert (path / "notes.txt").read_text() == "mine"
    assert again.manifest == open_bundle(path).manifest
    with load_any_size(again, "ort", outputs=[again.graph().outputs[0].name]) as model:
        outputs = model.infer({"image": np.full((1, 30, 50, 3), (9, 200, 9), np.uint8)})
    (answer,) = outputs.values()
    assert answer.argmax() == 1 if task == "classify" else (answer == 1).all()


def test_a_captioner_has_it_for_its_encoder(caption_bundle: Path, tmp_path: Path) -> None:
    made = add_any_size(caption_bundle, AnySizeOptions(out=tmp_path / "copy"))
    described = made.graph("encoder").any_size
    assert described is not None
    assert described.file == "encoder.any-size.onnx"
    with load_any_size(made, "ort") as engine:
        assert engine.infer({"image": np.zeros((1, 9, 31, 3), np.uint8)})["memory"].max() == 0


def test_the_tensors_are_a_single_photos(any_size_bundle: AnySizeBundle) -> None:
    with load_any_size(any_size_bundle("voc-deeplab"), "ort") as engine:
        assert engine.inputs == (
            TensorSpec(name="image", dtype="uint8", shape=(1, "height", "width", 3)),
        )
        assert all(spec.shape[0] == 1 for spec in engine.outputs)


def test_a_lower_precision_that_is_added_later_leaves_it(new_bundle: NewBundle) -> None:
    path = new_bundle()
    made = add_any_size(path, AnySizeOptions())
    add_precision(path, PrecisionOptions(precision="fp16"))
    again = open_bundle(path)
    assert list(again.graph().variants) == ["fp32", "fp16"]
    assert again.graph().any_size == made.graph().any_size
    assert "## Photos of any size" in again.read(CARD_FILE).decode()
    with load_any_size(again, "ort") as engine:
        assert engine.info.precision == "fp32"


# What is refused


def test_what_differs_from_the_host_is_not_written(
    new_bundle: NewBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_another_filter(model: bytes, graph: Any, preprocessing: Preprocessing) -> bytes:
        other = msgspec.structs.replace(preprocessing, resample="lanczos")
        return resizing_model(model, graph, other)

    path = new_bundle()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    monkeypatch.setattr(add, "resizing_model", with_another_filter)
    with pytest.raises(
        ParityError, match=r"'resized' has a largest difference of .*allowed is 1e\+00"
    ):
        add_any_size(path, AnySizeOptions())
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_bundle_that_ships_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="write a copy with -o FOLDER"):
        add_any_size("imagenet-lite0", AnySizeOptions())
    with pytest.raises(OutputError, match="exists; choose another name"):
        add_any_size("imagenet-lite0", AnySizeOptions(out=tmp_path))


def test_images_that_do_not_do_are_refused(
    classify_bundle: Path, tmp_path: Path, new_photo: Callable[..., Path]
) -> None:
    out = tmp_path / "copy"
    with pytest.raises(InputError, match="no image or folder"):
        add_any_size(classify_bundle, AnySizeOptions(images=(tmp_path / "gone",), out=out))
    good, bad = new_photo("good.png"), tmp_path / "bad.jpg"
    bad.write_bytes(b"words")
    with pytest.raises(InputError, match=r"bad\.jpg: not an image in a known format"):
        add_any_size(classify_bundle, AnySizeOptions(images=(good, bad), out=out))
    assert not out.exists()


def test_a_graph_that_does_not_cast_first_is_refused(classify_bundle: Path) -> None:
    bundle = open_bundle(classify_bundle)
    model = onnx.load_from_string(bundle.read("model.onnx"))
    model.graph.node[0].op_type = "Identity"
    data, preprocessing = model.SerializeToString(), bundle.manifest.preprocessing
    with pytest.raises(BundleError, match=r"\(Identity\) takes 'image' without a cast"):
        resizing_model(data, bundle.graph(), preprocessing)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 12))
    with pytest.raises(BundleError, match="has opset 12, a resize inside needs 13"):
        resizing_model(model.SerializeToString(), bundle.graph(), preprocessing)


def test_a_bundle_without_it_says_how_to_add_it(classify_bundle: Path) -> None:
    bundle = open_bundle(classify_bundle)
    with pytest.raises(BundleError, match="no any-size graph; add one with dlcv-export any-size"):
        load_any_size(bundle, "ort")


def test_an_output_that_the_graph_lacks_is_refused(any_size_bundle: AnySizeBundle) -> None:
    with pytest.raises(BundleError, match="has no output 'mask'"):
        load_any_size(any_size_bundle("imagenet-lite0"), "ort", outputs=["mask"])
