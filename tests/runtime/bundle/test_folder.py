"""A bundle opens only when every file is what was exported; hostile ones are refused in a sentence."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from dlcv.runtime import load, load_engine, open_bundle
from dlcv.runtime.bundle import save_bundle
from dlcv.runtime.bundle.onnx_protobuf import has_external_data, has_loop
from dlcv.runtime.errors import BundleError, OutputError

NewBundle = Callable[..., Path]


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def relist(bundle: Path, file: str) -> None:
    """Make the manifest agree with a changed file, as an attacker would."""
    data = (bundle / file).read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit_manifest(bundle, lambda m: m["files"].update({file: entry}))


def test_a_saved_bundle_opens_with_its_graph_and_golden_cases(classify_bundle: Path) -> None:
    bundle = open_bundle(classify_bundle)
    (case,) = bundle.golden()
    assert bundle.manifest.name == "toy-classify"
    assert bundle.graph().outputs[0].name == "probabilities"
    assert case.inputs["image"].dtype == np.uint8
    assert case.outputs["probabilities"].shape == (2, 3)


def test_a_flipped_bit_in_any_file_is_refused(new_bundle: NewBundle) -> None:
    bundle = new_bundle()
    for file in ("model.onnx", "golden/0.npz"):
        data = bytearray((bundle / file).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / file).write_bytes(data)
        with pytest.raises(BundleError, match=f"{file} is not the file that was exported"):
            open_bundle(bundle)
        data[len(data) // 2] ^= 1
        (bundle / file).write_bytes(data)
    assert open_bundle(bundle).manifest.name == "toy-classify"


def test_a_file_changed_after_opening_is_refused_when_it_is_read(new_bundle: NewBundle) -> None:
    bundle = open_bundle(new_bundle())
    (bundle.path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match="not the file that was exported"):
        bundle.read("model.onnx")


def test_a_missing_file_is_named(new_bundle: NewBundle) -> None:
    bundle = new_bundle()
    (bundle / "golden/0.npz").unlink()
    with pytest.raises(BundleError, match=r"golden/0\.npz is missing"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "path",
    [
        "../model.onnx",
        "/etc/passwd",
        "golden/../../x",
        "a\\b",
        "C:/x",
        "./model.onnx",
        "",
        "manifest.json",
    ],
)
def test_a_path_that_is_not_plainly_inside_the_folder_is_refused(
    new_bundle: NewBundle, path: str
) -> None:
    bundle = new_bundle()
    edit_manifest(bundle, lambda m: m["files"].update({path: m["files"]["model.onnx"]}))
    with pytest.raises(BundleError, match="not a plain relative path inside the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize("linked", ["model.onnx", "golden"])
def test_a_link_out_of_the_folder_is_refused(
    new_bundle: NewBundle, tmp_path: Path, linked: str
) -> None:
    bundle = new_bundle()
    (bundle / linked).rename(tmp_path / "elsewhere")
    (bundle / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link or not a plain file"):
        open_bundle(bundle)


def test_a_link_to_the_bundle_folder_itself_is_fine(classify_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(classify_bundle)
    assert open_bundle(tmp_path / "link").manifest.name == "toy-classify"


def test_external_data_is_refused_even_with_a_correct_hash(new_bundle: NewBundle) -> None:
    bundle = new_bundle()
    model = onnx.load(bundle / "model.onnx")
    set_external_data(model.graph.initializer[0], location="../../secret")
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    relist(bundle, "model.onnx")
    with pytest.raises(BundleError, match="keeps tensors outside the file"):
        open_bundle(bundle)


def test_external_data_deep_in_a_subgraph_is_found() -> None:
    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    set_external_data(tensor, location="weights.bin")
    inner = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    branch = onnx.helper.make_graph([inner], "branch", [], [])
    node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    graph = onnx.helper.make_graph([node], "outer", [], [])
    assert has_external_data(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("where", ["graph", "branch", "function"])
def test_a_loop_is_found_wherever_it_is(where: str) -> None:
    make = onnx.helper.make_node
    body = onnx.helper.make_graph([make("Identity", ["c"], ["d"])], "body", [], [])
    loop = make("Loop", ["", "x"], ["y"], body=body)
    branch = onnx.helper.make_graph([loop], "branch", [], [])
    node = make("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    nodes = {"graph": [loop], "branch": [node], "function": [make("f", ["x"], ["y"], domain="own")]}
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes[where], "Loop", [], []))
    if where == "function":
        opsets = [onnx.helper.make_opsetid("", 20)]
        model.functions.append(onnx.helper.make_function("own", "f", ["x"], ["y"], [loop], opsets))
    assert has_loop(model.SerializeToString())
    named = onnx.helper.make_graph([make("Neg", ["x"], ["Loop"], name="Loop")], "Loop", [], [])
    assert not has_loop(onnx.helper.make_model(named).SerializeToString())


def test_operators_of_other_domains_are_refused(new_bundle: NewBundle) -> None:
    bundle = new_bundle()
    model = onnx.load(bundle / "model.onnx")
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    opsets = [onnx.helper.make_opsetid("", 18)]
    same = onnx.helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(onnx.helper.make_function("local", "same", ["x"], ["y"], [same], opsets))
    output = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("same", [output], ["z"], domain="local"))
    onnx.save(model, bundle / "model.onnx")
    relist(bundle, "model.onnx")
    assert open_bundle(bundle).manifest.name, "that it is imported does no harm, nor a function"
    model.graph.node.append(onnx.helper.make_node("Gelu", [output], ["g"], domain="com.microsoft"))
    onnx.save(model, bundle / "model.onnx")
    relist(bundle, "model.onnx")
    with pytest.raises(BundleError, match=r"operators of com\.microsoft, which not every engine"):
        open_bundle(bundle)


def test_a_bundle_with_a_loop_is_refused(new_bundle: NewBundle) -> None:
    bundle = new_bundle()
    model = onnx.load(bundle / "model.onnx")
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", [], ["never"], body=body))
    onnx.save(model, bundle / "model.onnx")
    relist(bundle, "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx has the operator Loop"):
        open_bundle(bundle)


@pytest.mark.parametrize("kind", ["npy", "deflate", "encrypted", "text"])
def test_a_golden_case_that_is_no_npz_is_one_sentence(new_bundle: NewBundle, kind: str) -> None:
    bundle = new_bundle()
    path = bundle / "golden/0.npz"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "text":
        path.write_text("not an archive")
    else:
        with path.open("wb") as file:
            arrays: dict[str, Any] = {"input.image": np.arange(10_000)}
            np.savez_compressed(file, **arrays)
        data = bytearray(path.read_bytes())
        if kind == "deflate":
            data[200:400] = b"\xff" * 200
        else:  # flag bit 0, in the local header and in the directory
            data[6] |= 1
            data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(data)
    relist(bundle, "golden/0.npz")
    with pytest.raises(BundleError, match=r"golden/0\.npz is not a readable NPZ"):
        list(open_bundle(bundle).golden())


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("outputs", [None, ("embedding",)])
def test_a_name_that_is_not_utf8_is_one_sentence(
    new_bundle: NewBundle, engine: str, outputs: tuple[str, ...] | None, capfd: Any
) -> None:
    bundle = new_bundle()
    path = bundle / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"probabilities", b"prob\xffbilities"))
    relist(bundle, "model.onnx")
    with pytest.raises(BundleError):
        load_engine(open_bundle(bundle), engine, outputs=outputs)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_is_not_onnx_is_refused(new_bundle: NewBundle) -> None:
    bundle = new_bundle()
    (bundle / "model.onnx").write_bytes(b"\xff" * 100)
    relist(bundle, "model.onnx")
    with pytest.raises(BundleError, match="not an ONNX file"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=3), "has schema version 3, this dlcv reads 1 and 2"),
        (lambda m: m.update(colour="red"), "unknown field `colour`"),
        (lambda m: m["preprocessing"].update(mean=[0, 0, 0]), "unknown field `mean`"),
        (lambda m: m.pop("classes"), "missing required field `classes`"),
        (lambda m: m["classes"].pop(), "'classes' lists 2 names but 'probabilities' has 3 columns"),
        (lambda m: m.update(task="paint"), "Invalid enum value 'paint'"),
        (lambda m: m["files"].pop("model.onnx"), "'files' does not list 'model.onnx'"),
        (
            lambda m: m["graphs"].update(model={**m["graphs"]["model"], "variants": {}}),
            "no variants",
        ),
        (lambda m: m.update(graphs={}), "needs a graph named 'model'"),
        (lambda m: m["graphs"]["model"]["outputs"].pop(0), "needs the output 'probabilities'"),
        (lambda m: m["graphs"]["model"]["inputs"][0].update(dtype="float32"), "must be uint8"),
        (lambda m: m["graphs"]["model"].update(inputs=[]), "needs the input 'image'"),
        (
            lambda m: m["graphs"]["model"]["outputs"][0]["shape"].pop(0),
            r"'probabilities' must be float32 \(batch, any\), not probabilities: float32 \(3\)",
        ),
        (
            lambda m: m["graphs"].update(distance=m["graphs"]["model"]),
            "graph 'distance' is not in the contract of task 'classify'",
        ),
        (lambda m: m["files"]["model.onnx"].update(sha256="abc"), "matching regex"),
        (lambda m: m["preprocessing"].update(multiple=3), "not a multiple of 3"),
        (lambda m: m["preprocessing"].update(size=[0, 8]), ">= 1"),
        (
            lambda m: m["preprocessing"].update(channels=1),
            "'image' has 3 channels, 'preprocessing' makes 1",
        ),
        (lambda m: m["preprocessing"].update(pad=[1, 2, 3]), "pad and pad_at need resize"),
        (lambda m: m["preprocessing"].update(pad=[1, 2, 300]), "<= 255"),
        (lambda m: m.update(threshold=0.5), "'threshold' belongs to activation 'sigmoid'"),
        (lambda m: m.update(activation="sigmoid"), "'threshold' belongs to activation 'sigmoid'"),
        (lambda m: m.update(activation="sigmoid", threshold=1), "< 1"),
        (
            lambda m: m["classes"][0].update(name="red\x1b[31m"),
            r"no line breaks and control characters, as 'red\\x1b\[31m' has",
        ),
        (lambda m: m["classes"][0].update(name="red\nhat"), "no line breaks"),
    ],
)
def test_a_manifest_that_breaks_the_spec_is_refused_with_the_place(
    new_bundle: NewBundle, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    bundle = new_bundle()
    edit_manifest(bundle, change)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_of_version_1_a_manifest_without_the_newer_keys_is_read(new_bundle: NewBundle) -> None:
    def of_version_1(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 1
        for key in ("activation", "threshold"):
            del manifest[key]
        for key in ("channels", "crop_rounding", "pad", "pad_at"):
            del manifest["preprocessing"][key]

    bundle = new_bundle()
    newer = open_bundle(bundle).manifest
    edit_manifest(bundle, of_version_1)
    older = open_bundle(bundle).manifest
    assert older.schema_version == 1
    assert (older.activation, older.preprocessing) == (newer.activation, newer.preprocessing)


@pytest.mark.parametrize(
    "name", ["tabby cat", "café\u00a0crème", "\u0645\u06cc\u200c\u062e\u0648", "日本\u3000語"]
)
def test_a_class_may_have_a_name_of_any_script(new_bundle: NewBundle, name: str) -> None:
    bundle = new_bundle()
    edit_manifest(bundle, lambda m: m["classes"][0].update(name=name))
    assert open_bundle(bundle).manifest.classes[0].name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid"),
        (b"{", "not valid"),
        (b"[]", "not valid"),
        (b"\xff\xfe", "not valid"),
        (b"[" * 100_000, "not valid"),
        (b'{"schema_version": 1' + b" " * 2**23 + b"}", "at most 4,194,304 are allowed"),
    ],
)
def test_a_manifest_that_is_not_json_or_too_large_is_refused(
    new_bundle: NewBundle, text: bytes, message: str
) -> None:
    bundle = new_bundle()
    (bundle / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


def test_a_mask_needs_no_more_than_256_classes(new_bundle: NewBundle) -> None:
    bundle = new_bundle("segment")
    edit_manifest(bundle, lambda m: m.update(classes=[{"name": "x"}] * 257))
    with pytest.raises(BundleError, match="needs 2 to 256 classes, 'classes' lists 257"):
        open_bundle(bundle)


def test_a_graph_unlike_its_manifest_is_refused_when_it_is_loaded(new_bundle: NewBundle) -> None:
    bundle = new_bundle()

    def claim_other_maps(manifest: dict[str, Any]) -> None:
        manifest["graphs"]["model"]["outputs"][2]["shape"] = ["batch", 7, 7]

    edit_manifest(bundle, claim_other_maps)
    with pytest.raises(BundleError, match=r"the graph has .*8, 8.* where the manifest says .*7, 7"):
        load(bundle, engine="ort")


def test_what_is_no_bundle_says_so(tmp_path: Path, new_photo: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere; .* camvid-lraspp, cifar10-vit"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="is a file; a bundle is a folder"):
        open_bundle(new_photo("a.png"))


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path, classify_bundle: Path) -> None:
    manifest = open_bundle(classify_bundle).manifest
    files = {"model.onnx": b"not onnx \xff\xff\xff", "golden/0.npz": b""}
    with pytest.raises(BundleError):
        save_bundle(tmp_path / "new", manifest, files=files)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_replaced_only_on_purpose(new_bundle: NewBundle) -> None:
    bundle = open_bundle(new_bundle())
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    with pytest.raises(OutputError, match="exists; choose another name or give --overwrite"):
        save_bundle(bundle.path, bundle.manifest, files=files)
    save_bundle(bundle.path, bundle.manifest, files=files, overwrite=True)
    assert open_bundle(bundle.path).manifest == bundle.manifest
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


def test_replacing_a_bundle_keeps_what_somebody_put_beside_its_files(
    new_bundle: NewBundle,
) -> None:
    bundle = open_bundle(new_bundle())
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    (bundle.path / "notes").mkdir()
    (bundle.path / "notes" / "mine.txt").write_text("precious")
    save_bundle(bundle.path, bundle.manifest, files=files, overwrite=True)
    assert (bundle.path / "notes" / "mine.txt").read_text() == "precious"
    (bundle.path / "more.onnx").write_text("mine too")
    with pytest.raises(OutputError, match=r"more\.onnx is in the way: it is not of the bundle"):
        save_bundle(
            bundle.path,
            bundle.manifest,
            files=files | {"more.onnx": files["model.onnx"]},
            overwrite=True,
        )
    assert (bundle.path / "more.onnx").read_text() == "mine too"


def test_a_folder_of_other_things_is_never_overwritten(
    tmp_path: Path, classify_bundle: Path
) -> None:
    bundle = open_bundle(classify_bundle)
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(OutputError, match="not a bundle; it will not be overwritten"):
        save_bundle(tmp_path, bundle.manifest, files={}, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_manifest_damaged_anywhere_is_refused_or_means_the_same_kind_of_thing(
    new_bundle: NewBundle,
) -> None:
    """Five hundred random damages: never anything but a bundle or a `BundleError`."""
    bundle = new_bundle()
    path = bundle / "manifest.json"
    whole, random = path.read_bytes(), np.random.default_rng(2)
    reasons = []
    for _ in range(500):
        data = bytearray(whole)
        for position in random.integers(0, len(data), 3):
            data[position] = random.integers(0, 256)
        path.write_bytes(bytes(data[: random.integers(len(data) // 2, 2 * len(data))]))
        try:
            open_bundle(bundle)
        except BundleError as e:
            reasons.append(str(e))
    assert len(reasons) > 300
    assert not any("\n" in reason for reason in reasons)
