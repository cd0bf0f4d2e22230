"""A Triton model repository: its configurations parse as Triton's own, and its graphs answer as the bundle does."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tests.export.conftest import triton_config, triton_session, write_triton
from tritonclient.grpc import model_config_pb2

from dlcv.export.triton_config import TritonConfig, text_from_config
from dlcv.runtime.bundle import open_bundle, save_bundle
from dlcv.runtime.bundle.schema import ClassInfo, DType, FileEntry, Graph, TensorSpec
from dlcv.runtime.engines import engine_model, load_engine
from dlcv.runtime.errors import BundleError, InputError, OutputError

CONFIG: Any = model_config_pb2  # made at import: a type checker sees nothing in them


def dims(tensors):
    return {tensor.name: list(tensor.dims) for tensor in tensors}


@pytest.mark.parametrize(
    ("name", "image", "outputs"),
    [
        (
            "imagenet-lite0",
            [224, 224, 3],
            {"probabilities": [1000], "embedding": [1280], "explanation": [7, 7]},
        ),
        ("voc-deeplab", [513, 513, 3], {"mask": [513, 513], "confidence": [513, 513]}),
        ("camvid-lraspp", [-1, -1, 3], {"mask": [-1, -1], "confidence": [-1, -1]}),
    ],
)
def test_a_configuration_describes_the_graph_without_its_batch(shipped, name, image, outputs):
    config = triton_config(shipped[name])
    assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 8)
    assert dims(config.input) == {"image": image}
    assert config.input[0].data_type == CONFIG.TYPE_UINT8
    assert dims(config.output) == outputs
    types = {output.name: output.data_type for output in config.output}
    assert types.pop("mask", CONFIG.TYPE_UINT8) == CONFIG.TYPE_UINT8
    assert set(types.values()) == {CONFIG.TYPE_FP32}
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert [group.kind for group in config.instance_group] == [CONFIG.ModelInstanceGroup.KIND_AUTO]


def test_parameters_say_how_to_make_pixels_and_which_bundle_it_is(shipped):
    bundle = open_bundle("imagenet-lite0")
    parameters = {
        k: v.string_value
        for k, v in triton_config(shipped[bundle.manifest.name]).parameters.items()
    }
    expected = msgspec.to_builtins(bundle.manifest.preprocessing)
    assert json.loads(parameters["dlcv.preprocessing"]) == json.loads(json.dumps(expected))
    assert parameters["dlcv.bundle"] == "imagenet-lite0"
    assert parameters["dlcv.bundle_sha256"] == bundle.sha256
    classes = json.loads(
        triton_config(shipped["voc-deeplab"]).parameters["dlcv.classes"].string_value
    )
    assert classes[0] == {"name": "background", "color": [0, 0, 0]}


def test_labels_are_the_classes_one_a_line(shipped):
    config = triton_config(shipped["imagenet-lite0"])
    assert {o.name: o.label_filename for o in config.output if o.label_filename} == {
        "probabilities": "labels.txt"
    }
    lines = (shipped["imagenet-lite0"] / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [c.name for c in open_bundle("imagenet-lite0").manifest.classes]
    assert not (shipped["voc-deeplab"] / "labels.txt").exists()


@pytest.mark.parametrize("name", ["imagenet-lite0", "camvid-lraspp"])
def test_the_written_graph_answers_as_the_bundle_does(shipped, name):
    bundle = open_bundle(name)
    model = triton_session(shipped[name])
    with load_engine(bundle, "ort") as engine:
        for case in bundle.golden():
            answers = dict(
                zip(
                    [o.name for o in model.get_outputs()], model.run(None, case.inputs), strict=True
                )
            )
            for output, array in engine.infer(case.inputs).items():
                np.testing.assert_allclose(answers[output], array, atol=1e-5)
                near = 0.02 * np.abs(case.outputs[output]).max()  # weights are stored in fp16
                np.testing.assert_allclose(answers[output], case.outputs[output], atol=near)


def test_outputs_are_cut(tmp_path):
    (model,) = write_triton(tmp_path, "camvid-lraspp", outputs=["mask"], batch=2)
    config = triton_config(model)
    assert dims(config.output) == {"mask": [-1, -1]}
    assert config.max_batch_size == 2
    assert [o.name for o in triton_session(model).get_outputs()] == ["mask"]


def test_an_output_that_is_in_no_graph_is_refused(segment_bundle, tmp_path):
    with pytest.raises(BundleError, match=r"has no output 'depth', only mask, confidence"):
        write_triton(tmp_path, segment_bundle, outputs=["mask", "depth"])
    assert not (tmp_path / "repository").exists()


def test_the_precision_that_is_asked_for_is_written(tmp_path):
    (model,) = write_triton(tmp_path, "camvid-lraspp", precision="fp16")
    bundle = open_bundle("camvid-lraspp")
    assert (model / "1/model.onnx").read_bytes() == bundle.read("model.fp16.onnx")
    assert triton_config(model).parameters["dlcv.variant"].string_value == "fp16"
    with pytest.raises(BundleError, match="has no bf16 graph"):
        write_triton(tmp_path / "other", "camvid-lraspp", precision="bf16")


def test_an_int8_graph_for_cpus_needs_a_cpu(tmp_path):
    with pytest.raises(InputError, match="depends on the device; give --cpu or --gpu"):
        write_triton(tmp_path, "camvid-lraspp", precision="int8")
    with pytest.raises(BundleError, match="int8 graph for CPUs only"):
        write_triton(tmp_path, "camvid-lraspp", precision="int8", device="gpu")
    (model,) = write_triton(tmp_path, "camvid-lraspp", precision="int8", device="cpu")
    config = triton_config(model)
    assert config.parameters["dlcv.variant"].string_value == "int8-cpu"
    assert config.instance_group[0].kind == CONFIG.ModelInstanceGroup.KIND_CPU


def test_a_captioner_becomes_two_models(caption_bundle, tmp_path):
    encoder, decoder = write_triton(tmp_path, caption_bundle)
    assert [encoder.name, decoder.name] == ["toy-caption-encoder", "toy-caption-decoder"]
    assert dims(triton_config(encoder).output) == {"memory": [1, 2, 1, 1, 3]}
    config = triton_config(decoder)
    assert config.max_batch_size == 8
    assert dims(config.input) == {
        "token": [1],
        "position": [1],
        "cache": [1, 2, 1, 6, 1],
        "memory": [1, 2, 1, 1, 3],
    }
    assert {t.name for t in config.input if t.HasField("reshape")} == {"token", "position"}
    assert all(not list(t.reshape.shape) for t in config.input)  # (batch, 1) becomes (batch,)
    assert [t.data_type for t in config.input[:3]] == [
        CONFIG.TYPE_INT32,
        CONFIG.TYPE_INT32,
        CONFIG.TYPE_FP32,
    ]
    assert dims(config.output) == {
        "logits": [9],
        "next_cache": [1, 2, 1, 6, 1],
        "attention": [2, 2],
    }
    assert (decoder / "tokenizer.json").read_bytes() == open_bundle(caption_bundle).read(
        "tokenizer.json"
    )
    assert "dlcv.preprocessing" in triton_config(encoder).parameters
    assert "dlcv.preprocessing" not in config.parameters


def test_outputs_cut_the_graph_that_has_them(caption_bundle, tmp_path):
    encoder, decoder = write_triton(tmp_path, caption_bundle, outputs=["logits", "next_cache"])
    assert list(dims(triton_config(encoder).output)) == ["memory"]
    assert list(dims(triton_config(decoder).output)) == ["logits", "next_cache"]
    assert [o.name for o in triton_session(decoder).get_outputs()] == ["logits", "next_cache"]


def distance_model() -> bytes:
    """Scores: the inner products of queries and prototypes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["prototypes"], ["columns"], perm=[1, 0]),
            helper.make_node("MatMul", ["query", "columns"], ["scores"]),
        ],
        "toy-distance",
        [
            value("query", TensorProto.FLOAT, ["batch", 3]),
            value("prototypes", TensorProto.FLOAT, ["classes", 3]),
        ],
        [value("scores", TensorProto.FLOAT, ["batch", "classes"])],
    )
    opset = [helper.make_opsetid("", 18)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return model


@pytest.fixture
def embed_bundle(classify_bundle, tmp_path):
    """An embedder with a distance, made of the toy classifier."""
    bundle = open_bundle(classify_bundle)
    model = bundle.graph()
    variant = model.variants["fp32"]
    files = {
        "model.onnx": engine_model(bundle, outputs=["embedding"]).onnx,
        "distance.onnx": distance_model(),
    }
    spec = {
        "query": TensorSpec(name="query", dtype="float32", shape=("batch", 3)),
        "prototypes": TensorSpec(name="prototypes", dtype="float32", shape=("classes", 3)),
        "scores": TensorSpec(name="scores", dtype="float32", shape=("batch", "classes")),
    }
    replace = msgspec.structs.replace
    manifest = replace(
        bundle.manifest,
        name="toy-embed",
        task="embed",
        classes=(),
        golden=(),
        files={name: FileEntry(sha256="0" * 64, size_bytes=0) for name in files},
        graphs={
            "model": replace(
                model, outputs=tuple(o for o in model.outputs if o.name == "embedding")
            ),
            "distance": Graph(
                inputs=(spec["query"], spec["prototypes"]),
                outputs=(spec["scores"],),
                variants={"fp32": replace(variant, file="distance.onnx")},
            ),
        },
    )
    return save_bundle(tmp_path / "toy-embed", manifest, files=files).path


def test_a_distance_is_a_model_of_whole_shapes(embed_bundle, tmp_path):
    model, distance = write_triton(tmp_path, embed_bundle)
    assert [model.name, distance.name] == ["toy-embed", "toy-embed-distance"]
    assert triton_config(model).max_batch_size == 8
    config = triton_config(distance)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert dims(config.input) == {"query": [-1, 3], "prototypes": [-1, 3]}
    assert dims(config.output) == {"scores": [-1, -1]}
    (scores,) = triton_session(distance).run(
        None, {"query": np.eye(2, 3, dtype=np.float32), "prototypes": np.eye(3, dtype=np.float32)}
    )
    np.testing.assert_array_equal(scores, np.eye(2, 3))


def test_strings_are_escaped(new_bundle, tmp_path):
    names = ['a "quoted" one', "back\\slash", "Käse 猫", "it's #1: {x}"]
    classes = tuple(ClassInfo(name=name, color=None) for name in names[:3])
    licence = 'quote " backslash \\ tab\tline\nend é'
    (model,) = write_triton(tmp_path, new_bundle("segment", classes=classes, licence=licence))
    parameters = triton_config(model).parameters
    assert parameters["dlcv.licence"].string_value == licence
    assert [c["name"] for c in json.loads(parameters["dlcv.classes"].string_value)] == names[:3]
    (labelled,) = write_triton(tmp_path / "labels", save_classes(new_bundle, tmp_path, classes))
    assert (labelled / "labels.txt").read_text(encoding="utf-8").splitlines() == names[:3]


def save_classes(new_bundle, tmp_path, classes):
    (tmp_path / "bundle").rename(tmp_path / "segmenter")
    return new_bundle("classify", classes=classes)


def test_dtypes_have_triton_s_names():
    kinds: tuple[DType, ...] = ("uint8", "uint16", "int32", "int64", "float16", "float32")
    outputs = tuple(TensorSpec(name=kind, dtype=kind, shape=("batch", 2)) for kind in kinds)
    config = TritonConfig(name="a", backend="onnxruntime", inputs=(), outputs=outputs, max_batch=1)
    text = text_from_config(config, files=frozenset())
    parsed = text_format.Parse(text, CONFIG.ModelConfig())
    named = [CONFIG.DataType.Name(output.data_type) for output in parsed.output]
    assert named == [
        "TYPE_UINT8",
        "TYPE_UINT16",
        "TYPE_INT32",
        "TYPE_INT64",
        "TYPE_FP16",
        "TYPE_FP32",
    ]
    assert not parsed.HasField("dynamic_batching")  # of one image there is nothing to join


# What is there is kept


def test_a_model_that_exists_is_replaced_only_on_demand(classify_bundle, segment_bundle, tmp_path):
    write_triton(tmp_path, classify_bundle)
    with pytest.raises(
        OutputError, match="toy-classify exists; choose another repository, or give --over"
    ):
        write_triton(tmp_path, segment_bundle, classify_bundle)
    assert not (tmp_path / "repository" / "toy-segment").exists()  # all or nothing
    (model,) = write_triton(tmp_path, classify_bundle, batch=3, overwrite=True)
    assert triton_config(model).max_batch_size == 3
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["toy-classify"]


def test_a_folder_of_somebody_else_is_never_replaced(classify_bundle, tmp_path):
    folder = tmp_path / "repository" / "toy-classify"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('name: "toy-classify"\nbackend: "python"\n')
    with pytest.raises(OutputError, match="is not a model that dlcv-export triton wrote"):
        write_triton(tmp_path, classify_bundle, overwrite=True)
    assert 'backend: "python"' in (folder / "config.pbtxt").read_text()


def test_a_link_is_not_a_model_of_ours(classify_bundle, tmp_path):
    (model,) = write_triton(tmp_path, classify_bundle)
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is not a model that dlcv-export triton wrote"):
        write_triton(tmp_path, classify_bundle, overwrite=True)


def test_another_version_and_other_people_s_files_stay(classify_bundle, tmp_path):
    (model,) = write_triton(tmp_path, classify_bundle)
    (model / "notes.txt").write_text("mine")
    (model / "1" / "notes.txt").write_text("mine too")
    write_triton(tmp_path, classify_bundle, version=2, overwrite=True)
    write_triton(tmp_path, classify_bundle, version=2, overwrite=True, outputs=["embedding"])
    files = sorted(
        path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()
    )
    assert files == ["1/model.onnx", "1/notes.txt", "2/model.onnx", "config.pbtxt", "notes.txt"]
    assert len(triton_session(model, 1).get_outputs()) == 4
    assert len(triton_session(model, 2).get_outputs()) == 1
    listed = triton_config(model).parameters["dlcv.files"].string_value
    assert listed == "1/model.onnx,2/model.onnx,config.pbtxt"


def test_a_file_in_the_way_is_kept(classify_bundle, tmp_path):
    (model,) = write_triton(tmp_path, classify_bundle)
    (model / "2").mkdir()
    (model / "2" / "model.onnx").write_text("mine")
    with pytest.raises(OutputError, match=r"2/model.onnx is in the way, and dlcv did not write it"):
        write_triton(tmp_path, classify_bundle, version=2, overwrite=True)
    assert (model / "2" / "model.onnx").read_text() == "mine"
    assert (model / "1" / "model.onnx").is_file()
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["toy-classify"]


def test_two_models_of_one_name_are_refused(classify_bundle, tmp_path):
    with pytest.raises(InputError, match="2 of the models are named 'toy-classify'"):
        write_triton(tmp_path, classify_bundle, classify_bundle)
