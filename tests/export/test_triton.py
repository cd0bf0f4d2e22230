"""A Triton model repository: its configurations parse as Triton's own, and its graphs answer as the bundle does."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from dlcv.export.triton import TritonOptions, triton_repository
from dlcv.export.triton_config import TritonConfig, text_from_config
from dlcv.runtime import load
from dlcv.runtime.bundle import open_bundle, save_bundle
from dlcv.runtime.bundle.schema import ClassInfo, DType, FileEntry, Graph, Plan, TensorSpec
from dlcv.runtime.engines import engine_model, load_engine
from dlcv.runtime.errors import BundleError, InputError, OutputError
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths

CONFIG: Any = model_config_pb2  # made at import: a type checker sees nothing in them
SERVICE: Any = service_pb2
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "triton.md"
PROFILE = "batch 1,4,16; height 8,32,32; width 8,32,32"


def config_of(model: Path):
    text = (model / "config.pbtxt").read_text(encoding="ascii")
    return text_format.Parse(text, CONFIG.ModelConfig())


def dims(tensors):
    return {tensor.name: list(tensor.dims) for tensor in tensors}


def session(model: Path, version: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model / str(version) / "model.onnx", options)


def write(path, *bundles, **options):
    opened = [open_bundle(bundle) for bundle in bundles]
    return triton_repository(opened, path / "repository", options=TritonOptions(**options))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    names = ("imagenet-lite0", "voc-deeplab", "camvid-lraspp")
    return dict(zip(names, write(tmp_path_factory.mktemp("triton"), *names), strict=True))


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
    config = config_of(shipped[name])
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
        k: v.string_value for k, v in config_of(shipped[bundle.manifest.name]).parameters.items()
    }
    expected = msgspec.to_builtins(bundle.manifest.preprocessing)
    assert json.loads(parameters["dlcv.preprocessing"]) == json.loads(json.dumps(expected))
    assert parameters["dlcv.bundle"] == "imagenet-lite0"
    assert parameters["dlcv.bundle_sha256"] == bundle.sha256
    classes = json.loads(config_of(shipped["voc-deeplab"]).parameters["dlcv.classes"].string_value)
    assert classes[0] == {"name": "background", "color": [0, 0, 0]}


def test_labels_are_the_classes_one_a_line(shipped):
    config = config_of(shipped["imagenet-lite0"])
    assert {o.name: o.label_filename for o in config.output if o.label_filename} == {
        "probabilities": "labels.txt"
    }
    lines = (shipped["imagenet-lite0"] / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [c.name for c in open_bundle("imagenet-lite0").manifest.classes]
    assert not (shipped["voc-deeplab"] / "labels.txt").exists()


@pytest.mark.parametrize("name", ["imagenet-lite0", "camvid-lraspp"])
def test_the_written_graph_answers_as_the_bundle_does(shipped, name):
    bundle = open_bundle(name)
    model = session(shipped[name])
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
    (model,) = write(tmp_path, "camvid-lraspp", outputs=["mask"], batch=2)
    config = config_of(model)
    assert dims(config.output) == {"mask": [-1, -1]}
    assert config.max_batch_size == 2
    assert [o.name for o in session(model).get_outputs()] == ["mask"]


def test_an_output_that_is_in_no_graph_is_refused(segment_bundle, tmp_path):
    with pytest.raises(BundleError, match=r"has no output 'depth', only mask, confidence"):
        write(tmp_path, segment_bundle, outputs=["mask", "depth"])
    assert not (tmp_path / "repository").exists()


def test_the_precision_that_is_asked_for_is_written(tmp_path):
    (model,) = write(tmp_path, "camvid-lraspp", precision="fp16")
    bundle = open_bundle("camvid-lraspp")
    assert (model / "1/model.onnx").read_bytes() == bundle.read("model.fp16.onnx")
    assert config_of(model).parameters["dlcv.variant"].string_value == "fp16"
    with pytest.raises(BundleError, match="has no bf16 graph"):
        write(tmp_path / "other", "camvid-lraspp", precision="bf16")


def test_an_int8_graph_for_cpus_needs_a_cpu(tmp_path):
    with pytest.raises(InputError, match="depends on the device; give --cpu or --gpu"):
        write(tmp_path, "camvid-lraspp", precision="int8")
    with pytest.raises(BundleError, match="int8 graph for CPUs only"):
        write(tmp_path, "camvid-lraspp", precision="int8", device="gpu")
    (model,) = write(tmp_path, "camvid-lraspp", precision="int8", device="cpu")
    config = config_of(model)
    assert config.parameters["dlcv.variant"].string_value == "int8-cpu"
    assert config.instance_group[0].kind == CONFIG.ModelInstanceGroup.KIND_CPU


def test_a_captioner_becomes_two_models(caption_bundle, tmp_path):
    encoder, decoder = write(tmp_path, caption_bundle)
    assert [encoder.name, decoder.name] == ["toy-caption-encoder", "toy-caption-decoder"]
    assert dims(config_of(encoder).output) == {"memory": [1, 2, 1, 1, 3]}
    config = config_of(decoder)
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
    assert "dlcv.preprocessing" in config_of(encoder).parameters
    assert "dlcv.preprocessing" not in config.parameters


def test_outputs_cut_the_graph_that_has_them(caption_bundle, tmp_path):
    encoder, decoder = write(tmp_path, caption_bundle, outputs=["logits", "next_cache"])
    assert list(dims(config_of(encoder).output)) == ["memory"]
    assert list(dims(config_of(decoder).output)) == ["logits", "next_cache"]
    assert [o.name for o in session(decoder).get_outputs()] == ["logits", "next_cache"]


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
    model, distance = write(tmp_path, embed_bundle)
    assert [model.name, distance.name] == ["toy-embed", "toy-embed-distance"]
    assert config_of(model).max_batch_size == 8
    config = config_of(distance)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert dims(config.input) == {"query": [-1, 3], "prototypes": [-1, 3]}
    assert dims(config.output) == {"scores": [-1, -1]}
    (scores,) = session(distance).run(
        None, {"query": np.eye(2, 3, dtype=np.float32), "prototypes": np.eye(3, dtype=np.float32)}
    )
    np.testing.assert_array_equal(scores, np.eye(2, 3))


def test_strings_are_escaped(new_bundle, tmp_path):
    names = ['a "quoted" one', "back\\slash", "Käse 猫", "it's #1: {x}"]
    classes = tuple(ClassInfo(name=name, color=None) for name in names[:3])
    licence = 'quote " backslash \\ tab\tline\nend é'
    (model,) = write(tmp_path, new_bundle("segment", classes=classes, licence=licence))
    parameters = config_of(model).parameters
    assert parameters["dlcv.licence"].string_value == licence
    assert [c["name"] for c in json.loads(parameters["dlcv.classes"].string_value)] == names[:3]
    (labelled,) = write(tmp_path / "labels", save_classes(new_bundle, tmp_path, classes))
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
    write(tmp_path, classify_bundle)
    with pytest.raises(
        OutputError, match="toy-classify exists; choose another repository, or give --over"
    ):
        write(tmp_path, segment_bundle, classify_bundle)
    assert not (tmp_path / "repository" / "toy-segment").exists()  # all or nothing
    (model,) = write(tmp_path, classify_bundle, batch=3, overwrite=True)
    assert config_of(model).max_batch_size == 3
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["toy-classify"]


def test_a_folder_of_somebody_else_is_never_replaced(classify_bundle, tmp_path):
    folder = tmp_path / "repository" / "toy-classify"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('name: "toy-classify"\nbackend: "python"\n')
    with pytest.raises(OutputError, match="is not a model that dlcv-export triton wrote"):
        write(tmp_path, classify_bundle, overwrite=True)
    assert 'backend: "python"' in (folder / "config.pbtxt").read_text()


def test_a_link_is_not_a_model_of_ours(classify_bundle, tmp_path):
    (model,) = write(tmp_path, classify_bundle)
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is not a model that dlcv-export triton wrote"):
        write(tmp_path, classify_bundle, overwrite=True)


def test_another_version_and_other_people_s_files_stay(classify_bundle, tmp_path):
    (model,) = write(tmp_path, classify_bundle)
    (model / "notes.txt").write_text("mine")
    (model / "1" / "notes.txt").write_text("mine too")
    write(tmp_path, classify_bundle, version=2, overwrite=True)
    write(tmp_path, classify_bundle, version=2, overwrite=True, outputs=["embedding"])
    files = sorted(
        path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()
    )
    assert files == ["1/model.onnx", "1/notes.txt", "2/model.onnx", "config.pbtxt", "notes.txt"]
    assert len(session(model, 1).get_outputs()) == 4
    assert len(session(model, 2).get_outputs()) == 1
    listed = config_of(model).parameters["dlcv.files"].string_value
    assert listed == "1/model.onnx,2/model.onnx,config.pbtxt"


def test_a_file_in_the_way_is_kept(classify_bundle, tmp_path):
    (model,) = write(tmp_path, classify_bundle)
    (model / "2").mkdir()
    (model / "2" / "model.onnx").write_text("mine")
    with pytest.raises(OutputError, match=r"2/model.onnx is in the way, and dlcv did not write it"):
        write(tmp_path, classify_bundle, version=2, overwrite=True)
    assert (model / "2" / "model.onnx").read_text() == "mine"
    assert (model / "1" / "model.onnx").is_file()
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["toy-classify"]


def test_two_models_of_one_name_are_refused(classify_bundle, tmp_path):
    with pytest.raises(InputError, match="2 of the models are named 'toy-classify'"):
        write(tmp_path, classify_bundle, classify_bundle)


# Plans


@pytest.fixture
def planned(new_bundle):
    """A bundle with plans for its graph: `planned({"trt": fields})`. They are not real ones."""

    def make(*plans: tuple[str, str]) -> Path:
        bundle = open_bundle(new_bundle("segment"))
        graph = bundle.graph()
        sha256 = bundle.manifest.files["model.onnx"].sha256
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        entries = []
        for number, (engine, profile) in enumerate(plans):
            file = f"plans/{number}.plan"
            files[file] = f"plan {number}".encode()
            fields = {"engine": engine, "version": "11.0", "device": "H100", "profile": profile}
            entries.append(Plan(file=file, engine=engine, graph_sha256=sha256, fields=fields))  # type: ignore[arg-type]
        variant = msgspec.structs.replace(graph.variants["fp32"], plans=tuple(entries))
        graphs = {"model": msgspec.structs.replace(graph, variants={"fp32": variant})}
        sizes = {name: FileEntry(sha256="0" * 64, size_bytes=0) for name in files}
        manifest = msgspec.structs.replace(bundle.manifest, graphs=graphs, files=sizes)
        return save_bundle(bundle.path, manifest, files=files, overwrite=True).path

    return make


def test_a_plan_of_the_bundle_is_written(planned, tmp_path):
    (model,) = write(tmp_path, planned(("trt", PROFILE), ("trt-rtx", PROFILE)), backend="tensorrt")
    config = config_of(model)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.instance_group[0].kind == CONFIG.ModelInstanceGroup.KIND_GPU
    assert json.loads(config.parameters["dlcv.plan"].string_value)["version"] == "11.0"
    assert sorted(path.name for path in (model / "1").iterdir()) == ["model.plan"]
    assert (model / "1" / "model.plan").read_bytes() == b"plan 0"


def test_a_smaller_batch_leaves_out_a_preferred_one_that_is_larger(planned, tmp_path):
    (model,) = write(tmp_path, planned(("trt", PROFILE)), backend="tensorrt", batch=2)
    assert config_of(model).max_batch_size == 2
    assert not config_of(model).dynamic_batching.preferred_batch_size


@pytest.mark.parametrize(
    ("plans", "options", "message"),
    [
        ([], {}, r"has no plan, in this precision .* --target trt --into-bundle, or give --plan"),
        ([("trt-rtx", PROFILE)], {}, "has only plans of TensorRT-RTX, which Triton does not load"),
        (
            [("trt", PROFILE)] * 2,
            {},
            "has several plans .*1.plan: TensorRT 11.0, H100.*; give the one",
        ),
        ([("trt", PROFILE)], {"batch": 17}, "takes batches of at most 16, not 17; give a smaller"),
        ([("trt", "batch 4,4,4")], {}, "takes batches from 4 on, and Triton's begin at 1"),
        (
            [("trt", PROFILE)],
            {"outputs": ["mask"]},
            "has no plan, in this precision and with these",
        ),
    ],
)
def test_a_plan_that_does_not_suit_is_refused(planned, tmp_path, plans, options, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path, planned(*plans), backend="tensorrt", **options)
    assert not (tmp_path / "repository").exists()


def test_one_of_several_plans_is_named_by_its_file(planned, tmp_path):
    bundle = planned(("trt", PROFILE), ("trt", "batch 1,1,2"))
    (model,) = write(tmp_path, bundle, backend="tensorrt", plans=[bundle / "plans" / "1.plan"])
    assert (model / "1" / "model.plan").read_bytes() == b"plan 1"
    assert config_of(model).max_batch_size == 2


def plan_file(path: Path, *, bundle: Path, engine: str = "trt", outputs: list[str] | None = None):
    """Write a plan and its note as `dlcv-export engine --out` does."""
    from hashlib import sha256

    path.write_bytes(b"a plan")
    note = {
        "graph_sha256": sha256(engine_model(open_bundle(bundle), outputs=outputs).onnx).hexdigest(),
        "plan_sha256": sha256(b"a plan").hexdigest(),
        "fields": {"engine": engine, "version": "11.0", "device": "H100", "profile": PROFILE},
        "compute_layers": {},
    }
    path.with_name(path.name + ".json").write_text(json.dumps(note))
    return path


def test_a_plan_of_a_file_is_written(segment_bundle, tmp_path):
    plan = plan_file(tmp_path / "a.plan", bundle=segment_bundle, outputs=["mask"])
    (model,) = write(tmp_path, segment_bundle, backend="tensorrt", plans=[plan], outputs=["mask"])
    assert (model / "1" / "model.plan").read_bytes() == b"a plan"


def test_a_plan_file_that_does_not_suit_is_refused(planned, tmp_path):
    bundle = planned(("trt", PROFILE))
    plan = plan_file(tmp_path / "a.plan", bundle=bundle, outputs=["mask"])
    with pytest.raises(InputError, match=r"a.plan was built from another graph than those"):
        write(tmp_path, bundle, backend="tensorrt", plans=[plan])
    rtx = plan_file(tmp_path / "rtx.plan", bundle=bundle, engine="trt-rtx")
    with pytest.raises(
        InputError, match=r"rtx.plan is a plan of trt-rtx, and Triton loads those of T"
    ):
        write(tmp_path, bundle, backend="tensorrt", plans=[rtx])
    plan.write_bytes(b"another")
    with pytest.raises(InputError, match=r"is not the plan that a.plan.json describes"):
        write(tmp_path, bundle, backend="tensorrt", plans=[plan])
    with pytest.raises(InputError, match=r"cannot use the plan .* with b.plan.json beside it"):
        write(tmp_path, bundle, backend="tensorrt", plans=[tmp_path / "b.plan"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt", "device": "cpu"}, "runs on a GPU; leave out --cpu"),
        ({"plans": [Path("a.plan")]}, "add --backend tensorrt"),
        ({"version": 0}, "version and batch must be 1 or more"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TritonOptions(**options)


# The client of the document, against a server that serves the repository as Triton does


class ToyTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """Answers as Triton does: batches, shapes and labels by the configuration alone, on ONNX Runtime."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def ModelConfig(self, request, context):  # noqa: N802  # gRPC's name
        return SERVICE.ModelConfigResponse(config=config_of(self.repository / request.name))

    def ModelInfer(self, request, context):  # noqa: N802  # gRPC's name
        folder = self.repository / request.model_name
        config = config_of(folder)
        (tensor,), (given,), (wanted,) = config.input, request.inputs, request.outputs
        assert (tensor.name, given.datatype) == (given.name, "UINT8")
        assert 1 <= given.shape[0] <= config.max_batch_size
        assert all(a in (-1, b) for a, b in zip(tensor.dims, given.shape[1:], strict=True))
        image = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(given.shape)
        (rows,) = session(folder).run([wanted.name], {"image": image})
        (output,) = (o for o in config.output if o.name == wanted.name)
        labels = (folder / output.label_filename).read_text(encoding="utf-8").splitlines()
        count = wanted.parameters["classification"].int64_param
        answers = [
            [f"{row[n]:f}:{n}:{labels[n]}" for n in row.argsort()[::-1][:count]] for row in rows
        ]
        response = SERVICE.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name=wanted.name, datatype="BYTES", shape=[len(rows), count])
        texts = np.array(answers, dtype=object)
        response.raw_output_contents.append(serialize_byte_tensor(texts).item())
        return response


@pytest.fixture
def toy_triton(shipped):
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        ToyTriton(shipped["imagenet-lite0"].parent), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def client_of_the_document() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(block)


def test_the_client_of_the_document_names_what_the_bundle_names(
    toy_triton, tmp_path, monkeypatch, capsys
):
    photo = sample_paths()[0]
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    monkeypatch.chdir(tmp_path)
    program = client_of_the_document().replace("localhost:8001", toy_triton)
    names: dict[str, object] = {}
    exec(compile(program, "triton.md", "exec"), names)  # noqa: S102  # our own document
    names["client"].close()  # type: ignore[attr-defined]
    printed = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    with load("imagenet-lite0", engine="ort") as model:
        result: Any = model(photo)[0]
    expected = result.top(3)
    assert [name for name, _ in printed] == [label.name for label in expected]
    np.testing.assert_allclose(
        [float(probability) for _, probability in printed],
        [label.probability for label in expected],
        atol=0.02,  # dlcv lets the JPEG decoder scale, the document's client does not
    )


@pytest.mark.parametrize("name", ["imagenet-lite0", "voc-deeplab", "camvid-lraspp"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (700, 701)])
def test_the_pixels_of_the_document_are_those_of_dlcv(tmp_path, name, size):
    functions = client_of_the_document().partition("\nclient = ")[0]
    names: dict[str, object] = {}
    exec(compile(functions, "triton.md", "exec"), names)  # noqa: S102  # our own document
    noise = np.random.default_rng(0).integers(
        0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8
    )
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    preprocessing = open_bundle(name).manifest.preprocessing
    made = names["pixels_from_file"](tmp_path / "a.png", msgspec.to_builtins(preprocessing))  # type: ignore[operator]
    expected = load_pixels(tmp_path / "a.png", preprocessing).pixels
    np.testing.assert_allclose(made[0], expected, rtol=0, atol=1)  # Pillow's order of the axes
