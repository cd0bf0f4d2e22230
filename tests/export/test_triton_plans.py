"""TensorRT plans in a Triton repository: of bundles and of files, and which do not suit."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.export.conftest import triton_config, write_triton
from tritonclient.grpc import model_config_pb2

from dlcv.export.triton import TritonOptions
from dlcv.runtime.bundle import open_bundle, save_bundle
from dlcv.runtime.bundle.schema import FileEntry, Plan
from dlcv.runtime.engines import engine_model
from dlcv.runtime.errors import InputError

CONFIG: Any = model_config_pb2  # made at import: a type checker sees nothing in them
PROFILE = "batch 1,4,16; height 8,32,32; width 8,32,32"


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
    (model,) = write_triton(
        tmp_path, planned(("trt", PROFILE), ("trt-rtx", PROFILE)), backend="tensorrt"
    )
    config = triton_config(model)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.instance_group[0].kind == CONFIG.ModelInstanceGroup.KIND_GPU
    assert json.loads(config.parameters["dlcv.plan"].string_value)["version"] == "11.0"
    assert sorted(path.name for path in (model / "1").iterdir()) == ["model.plan"]
    assert (model / "1" / "model.plan").read_bytes() == b"plan 0"


def test_a_smaller_batch_leaves_out_a_preferred_one_that_is_larger(planned, tmp_path):
    (model,) = write_triton(tmp_path, planned(("trt", PROFILE)), backend="tensorrt", batch=2)
    assert triton_config(model).max_batch_size == 2
    assert not triton_config(model).dynamic_batching.preferred_batch_size


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
        write_triton(tmp_path, planned(*plans), backend="tensorrt", **options)
    assert not (tmp_path / "repository").exists()


def test_one_of_several_plans_is_named_by_its_file(planned, tmp_path):
    bundle = planned(("trt", PROFILE), ("trt", "batch 1,1,2"))
    (model,) = write_triton(
        tmp_path, bundle, backend="tensorrt", plans=[bundle / "plans" / "1.plan"]
    )
    assert (model / "1" / "model.plan").read_bytes() == b"plan 1"
    assert triton_config(model).max_batch_size == 2


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
    (model,) = write_triton(
        tmp_path, segment_bundle, backend="tensorrt", plans=[plan], outputs=["mask"]
    )
    assert (model / "1" / "model.plan").read_bytes() == b"a plan"


def test_a_plan_file_that_does_not_suit_is_refused(planned, tmp_path):
    bundle = planned(("trt", PROFILE))
    plan = plan_file(tmp_path / "a.plan", bundle=bundle, outputs=["mask"])
    with pytest.raises(InputError, match=r"a.plan was built from another graph than those"):
        write_triton(tmp_path, bundle, backend="tensorrt", plans=[plan])
    rtx = plan_file(tmp_path / "rtx.plan", bundle=bundle, engine="trt-rtx")
    with pytest.raises(
        InputError, match=r"rtx.plan is a plan of trt-rtx, and Triton loads those of T"
    ):
        write_triton(tmp_path, bundle, backend="tensorrt", plans=[rtx])
    plan.write_bytes(b"another")
    with pytest.raises(InputError, match=r"is not the plan that a.plan.json describes"):
        write_triton(tmp_path, bundle, backend="tensorrt", plans=[plan])
    with pytest.raises(InputError, match=r"cannot use the plan .* with b.plan.json beside it"):
        write_triton(tmp_path, bundle, backend="tensorrt", plans=[tmp_path / "b.plan"])


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
