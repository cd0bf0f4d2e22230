"""`dlcv-infer` end to end on toy bundles: lines, files, refusals, exit codes, resuming."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from dlcv.cli.edge import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SOME_REFUSED

NewPhoto = Callable[..., Path]
COLORS = {"red": "red", "green": "lime", "blue": "blue"}
INFER = "import sys; from dlcv.cli.infer.app import main; main()"


def infer(*arguments: Any, stdin: str | None = None, cwd: Path | None = None) -> Any:
    return subprocess.run(
        [sys.executable, "-c", INFER, *map(str, arguments)],
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def photos(new_photo: NewPhoto, tmp_path: Path) -> Path:
    for name, color in COLORS.items():
        new_photo(f"photos/{name}.png", color=color)
    return tmp_path / "photos"


def test_classify_prints_a_line_an_image_in_order(classify_bundle: Path, photos: Path) -> None:
    ran = infer("classify", photos, "-m", classify_bundle, "--top", 2)
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0
    assert [record["label"] for record in records] == ["blue", "green", "red"]
    assert [Path(record["image"]).stem for record in records] == ["blue", "green", "red"]
    assert all(len(record["top"]) == 2 for record in records)
    assert all(" cpu fp32" in record["engine"] for record in records)
    assert ran.stderr == "3 answered\n"


def test_fail_fast_ends_at_the_first_refusal_and_resume_goes_on(
    classify_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "green.png").write_bytes(b"no image")
    where = ("-m", classify_bundle, "--out", tmp_path / "out")
    ran = infer("classify", photos, *where, "--fail-fast", "--batch", 1)
    assert ran.returncode == EXIT_FAILED
    assert "refused" in ran.stderr
    assert "--resume goes on from here" in ran.stderr
    done = [Path(line["image"]).stem for line in lines(tmp_path / "out" / "results.jsonl")]
    assert done == ["blue"]
    again = infer("classify", photos, *where, "--resume")
    assert again.returncode == EXIT_SOME_REFUSED
    done = [Path(line["image"]).stem for line in lines(tmp_path / "out" / "results.jsonl")]
    assert done == ["blue", "red"]


def test_classify_writes_csv(classify_bundle: Path, photos: Path) -> None:
    ran = infer("classify", photos, "-m", classify_bundle, "-f", "csv")
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    assert [row["label"] for row in rows] == ["blue", "green", "red"]
    assert rows[0]["top"].startswith("blue:0.99")


def test_segment_writes_palette_masks_of_the_images_size(
    segment_bundle: Path, photos: Path
) -> None:
    out = photos.parent / "out"
    given = ("segment", photos, "-m", segment_bundle, "--engine", "ort", "--out", out)
    ran = infer(*given, "--overlay", "--confidence")
    assert ran.returncode == 0, ran.stderr
    for record in lines(out / "results.jsonl"):
        name = Path(record["image"]).stem
        assert record["shares"] == {name: 1.0}
        with Image.open(out / record["mask"]) as mask:
            assert (mask.mode, mask.size) == ("P", (40, 30))
            assert set(mask.get_flattened_data()) == {list(COLORS).index(name)}
            color = np.asarray(mask.convert("RGB"))[0, 0].tolist()
            assert color == [255 * (name == c) for c in COLORS]
            assert "ort" in mask.info["Software"]
        with Image.open(out / record["overlay"]) as overlay:
            assert overlay.width > 40  # the legend stands beside the photo
        with Image.open(out / record["confidence"]) as confidence:
            assert confidence.size == (40, 30)
    run = json.loads((out / "run.json").read_text())
    assert (run["bundle"], run["engine"], run["precision"]) == ("toy-segment", "ort", "fp32")


def test_a_csv_of_masks_has_a_column_for_every_class(segment_bundle: Path, photos: Path) -> None:
    ran = infer("segment", photos, "-m", segment_bundle, "-f", "csv", "--out", "-")
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    shares = [[float(row[f"share {name}"]) for name in COLORS] for row in rows]
    assert shares == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_segment_without_out_chooses_a_new_folder_each_time(
    segment_bundle: Path, photos: Path
) -> None:
    for folder in ("dlcv-segment", "dlcv-segment-2"):
        ran = infer("segment", photos / "red.png", "-m", segment_bundle, cwd=photos.parent)
        assert f"results in {folder}" in ran.stderr
        assert (photos.parent / folder / "masks" / "red.png").exists()


def test_attend_writes_overlays_and_maps(classify_bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    ran = infer("attend", photos, "-m", classify_bundle, "--out", out, "--npz")
    assert ran.returncode == 0, ran.stderr
    with np.load(out / "maps" / "red.npz") as maps:
        assert maps["attention"].shape == (3, 8, 8)
        assert maps["explanation"].shape == (8, 8)
        assert maps["box_xyxy"].tolist() == [0, 0, 40, 30]
    with Image.open(out / "overlays" / "red.png") as overlay:
        assert overlay.width > overlay.height


def test_attend_prints_lines_when_asked_for_no_folder(classify_bundle: Path, photos: Path) -> None:
    ran = infer("attend", photos, "-m", classify_bundle, "--out", "-")
    assert [json.loads(line)["label"] for line in ran.stdout.splitlines()] == [
        "blue",
        "green",
        "red",
    ]
    refused = infer("attend", photos, "-m", classify_bundle, "--out", "-", "--npz")
    assert refused.returncode == EXIT_FAILED
    assert "this needs a results folder: give --out FOLDER" in refused.stderr


def test_attend_needs_attention(segment_bundle: Path, photos: Path) -> None:
    ran = infer("attend", photos, "-m", segment_bundle, "--out", photos.parent / "out")
    assert ran.returncode == EXIT_FAILED
    assert "has no output 'probabilities', only mask, confidence" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_embed_writes_one_matrix(classify_bundle: Path, photos: Path, kind: str) -> None:
    out = photos.parent / "out"
    arguments = ("embed", photos, "-m", classify_bundle, "--out", out, "-f", kind)
    assert infer(*arguments).returncode == 0
    assert infer(*arguments, "--resume").returncode == 0
    if kind == "npz":
        with np.load(out / "embeddings.npz") as arrays:
            vectors, images = arrays["embeddings"], arrays["images"].tolist()
            assert json.loads(str(arrays["run"]))["bundle"] == "toy-classify"
    else:
        table = parquet.read_table(out / "embeddings.parquet")
        vectors, images = np.array(table["embedding"].to_pylist()), table["image"].to_pylist()
        assert json.loads(table.schema.metadata[b"run"])["bundle"] == "toy-classify"
    np.testing.assert_allclose(vectors, np.eye(3)[::-1])
    assert [Path(image).stem for image in images] == ["blue", "green", "red"]
    assert [record["image"] for record in lines(out / "results.jsonl")] == images


def test_embed_prints_vectors_without_out(classify_bundle: Path, photos: Path) -> None:
    ran = infer("embed", photos / "red.png", "-m", classify_bundle)
    assert json.loads(ran.stdout)["embedding"] == [1.0, 0.0, 0.0]


def test_a_matrix_needs_a_folder(classify_bundle: Path, photos: Path) -> None:
    ran = infer("embed", photos, "-m", classify_bundle, "-f", "parquet")
    assert ran.returncode == EXIT_FAILED
    assert "this needs a results folder: give --out FOLDER" in ran.stderr


def test_inputs_may_be_files_folders_globs_and_a_list(classify_bundle: Path, photos: Path) -> None:
    (photos / "deep" / "deeper").mkdir(parents=True)
    (photos / "red.png").rename(photos / "deep" / "deeper" / "[red].png")
    listing = f"{photos / 'green.png'}\n\n{photos}/b*.png\n"
    ran = infer(
        "classify",
        photos / "deep",
        f"{photos}/**/[[]red].png",
        "-",
        "-m",
        classify_bundle,
        stdin=listing,
    )
    labels = [json.loads(line)["label"] for line in ran.stdout.splitlines()]
    assert labels == ["red", "red", "green", "blue"]


def test_urls_are_read_with_fsspec(classify_bundle: Path, photos: Path) -> None:
    ran = infer("classify", f"file://{photos}", f"file://{photos}/r*.png", "-m", classify_bundle)
    labels = [json.loads(line)["label"] for line in ran.stdout.splitlines()]
    assert labels == ["blue", "green", "red", "red"]


def test_bad_inputs_are_listed_and_the_others_answered(classify_bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("no pixels")
    (photos / "hollow").mkdir()
    inputs = (photos, photos / "gone.png", photos / "hollow", f"{photos}/*.nothing")
    ran = infer("classify", *inputs, "-m", classify_bundle, "--out", out)
    assert ran.returncode == EXIT_SOME_REFUSED
    assert len(lines(out / "results.jsonl")) == 3
    reasons = {Path(e["image"]).name: e["reason"] for e in lines(out / "errors.jsonl")}
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["text.jpg"].startswith("not an image")
    assert reasons["gone.png"] == "no such file"
    assert reasons["hollow"] == "the folder holds no images"
    assert reasons["*.nothing"] == "no file matches this pattern"
    assert all(f"{name}: {reason}" in ran.stderr for name, reason in reasons.items())
    assert ran.stderr.endswith(f"3 answered, 5 refused; results in {out}\n")


def test_nothing_to_run_is_a_failure(classify_bundle: Path, tmp_path: Path) -> None:
    ran = infer("classify", tmp_path / "gone.png", "-m", classify_bundle)
    assert ran.returncode == EXIT_FAILED
    assert "gone.png: no such file" in ran.stderr


def test_files_of_equal_name_get_masks_of_their_own(
    segment_bundle: Path, new_photo: NewPhoto
) -> None:
    a, b = new_photo("a/x.png", color="red"), new_photo("b/x.png", color="blue")
    out = a.parent.parent / "out"
    infer("segment", a, b, a, "-m", segment_bundle, "--out", out)
    records = lines(out / "results.jsonl")
    assert [r["mask"] for r in records] == ["masks/x.png", "masks/x-2.png", "masks/x-3.png"]
    assert [r["shares"] for r in records] == [{"red": 1.0}, {"blue": 1.0}, {"red": 1.0}]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_one_sentence(classify_bundle: Path, photos: Path) -> None:
    photos.parent.chmod(0o500)
    ran = infer("classify", photos, "-m", classify_bundle, "--out", photos.parent / "out")
    photos.parent.chmod(0o700)
    assert ran.returncode == EXIT_FAILED
    assert "cannot write" in ran.stderr


def test_an_output_path_that_cannot_be_a_folder_is_one_sentence(
    classify_bundle: Path, photos: Path
) -> None:
    for out in (photos / "red.png", photos / "red.png" / "sub", Path("/proc/nowhere/out")):
        ran = infer("classify", photos, "-m", classify_bundle, "--out", out)
        assert ran.returncode == EXIT_FAILED
        assert ran.stderr.startswith("dlcv-infer: cannot write ")
        assert ran.stderr.count("\n") == 1


def test_results_are_never_replaced_unasked(classify_bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    arguments = ("classify", photos, "-m", classify_bundle, "--out", out)
    assert infer(*arguments).returncode == 0
    again = infer(*arguments)
    assert again.returncode == EXIT_FAILED
    assert "already holds results; --resume goes on with them" in again.stderr
    assert infer(*arguments, "--overwrite").returncode == 0
    assert len(lines(out / "results.jsonl")) == 3


def test_resume_and_overwrite_together_are_refused(classify_bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    ran = infer("classify", photos, "-m", classify_bundle, "--out", out, "--resume", "--overwrite")
    assert ran.returncode == EXIT_FAILED
    assert "give only one" in ran.stderr
    assert not out.exists()


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_resumed_run_neither_loses_nor_repeats_an_image(
    segment_bundle: Path, new_photo: NewPhoto, kind: str
) -> None:
    for number in range(400):
        new_photo(f"many/{number:03}.png", color=list(COLORS.values())[number % 3], size=(160, 120))
    folder = new_photo("many/broken.png").parent
    (folder / "broken.png").write_bytes(b"")
    out = folder.parent / "out"
    arguments = [
        "segment", str(folder), "-m", str(segment_bundle), "--out", str(out), "-f", kind, "--overlay",
    ]  # fmt: skip
    run = subprocess.Popen([sys.executable, "-c", INFER, *arguments], stderr=subprocess.DEVNULL)
    results = out / f"results.{kind}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (results.exists() and results.stat().st_size > 5000):
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = results.read_text().count("\n")
    assert 0 < done < 400
    for mask in (out / "masks").glob("[!.]*.png"):  # a kill leaves no half file
        with Image.open(mask) as image:
            image.load()
    with results.open("a") as file:
        file.write('{"image": "half a li')
    again = infer(*arguments, "--resume")
    assert again.returncode == EXIT_SOME_REFUSED, again.stderr
    assert f"{400 - done + (kind == 'csv')} answered, " in again.stderr
    if kind == "jsonl":
        images = [Path(r["image"]).name for r in lines(results)]
    else:
        with results.open(newline="") as table:
            images = [Path(r["image"]).name for r in csv.DictReader(table)]
    assert images == [f"{number:03}.png" for number in range(400)]
    assert len(list((out / "masks").glob("[!.]*.png"))) == 400
    assert [Path(e["image"]).name for e in lines(out / "errors.jsonl")] == ["broken.png"]


def test_an_interrupted_run_says_how_to_go_on(segment_bundle: Path, new_photo: NewPhoto) -> None:
    photo = new_photo("a.png", size=(300, 200))
    out = photo.parent / "out"
    arguments = ["segment", "-", "-m", str(segment_bundle), "--out", str(out)]
    run = subprocess.Popen(
        [sys.executable, "-c", INFER, *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdin is not None
    run.stdin.write(f"{photo}\n" * 100)
    run.stdin.flush()
    results = out / "results.jsonl"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (results.exists() and results.stat().st_size):
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    stderr = run.communicate(timeout=30)[1]
    assert run.returncode == EXIT_INTERRUPTED
    assert stderr == f"interrupted; --out {out} --resume goes on from here\n"
    assert results.read_text().endswith("\n")


def test_results_that_dlcv_did_not_write_are_not_resumed(
    classify_bundle: Path, photos: Path
) -> None:
    out = photos.parent / "out"
    arguments = ("classify", photos, "-m", classify_bundle, "--out", out)
    infer(*arguments)
    whole = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text("scribble\n" + whole)
    assert "results.jsonl is damaged and cannot be resumed" in infer(*arguments, "--resume").stderr
    (out / "run.json").unlink()
    assert "has no run.json" in infer(*arguments, "--resume").stderr


def test_a_run_is_resumed_only_with_its_own_settings(classify_bundle: Path, photos: Path) -> None:
    out = photos.parent / "out"
    arguments = ("classify", photos, "-m", classify_bundle, "--out", out)
    infer(*arguments)
    ran = infer(*arguments, "--resume", "--top", 1)
    assert ran.returncode == EXIT_FAILED
    assert "was made with another options" in ran.stderr


def test_an_engine_that_is_not_installed_is_one_sentence(
    segment_bundle: Path, photos: Path
) -> None:
    ran = infer("segment", photos, "-m", segment_bundle, "--engine", "trt")
    assert ran.returncode == EXIT_FAILED
    assert ran.stderr.startswith("dlcv-infer: engine 'trt' (TensorRT 11, native) is not installed")
    assert ran.stderr.count("\n") == 1


def test_check_replays_the_golden_cases(classify_bundle: Path, segment_bundle: Path) -> None:
    for bundle in (classify_bundle, segment_bundle):
        ran = infer("check", bundle)
        assert ran.returncode == 0, ran.stderr
        assert "passed, 1 golden cases" in ran.stderr


def test_check_fails_when_the_graph_answers_otherwise(new_bundle: Callable[..., Path]) -> None:
    import hashlib

    bundle = new_bundle()
    with np.load(bundle / "golden/0.npz") as arrays:
        changed = dict(arrays)
    changed["output.embedding"][0, 0] += 0.1
    np.savez(bundle / "golden/0.npz", **changed)
    manifest = json.loads((bundle / "manifest.json").read_text())
    digest = hashlib.sha256((bundle / "golden/0.npz").read_bytes()).hexdigest()
    manifest["files"]["golden/0.npz"]["sha256"] = digest
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    ran = infer("check", bundle)
    assert ran.returncode == EXIT_FAILED
    assert "'embedding' has a largest relative difference" in ran.stderr
    assert "FAILED" in ran.stderr


def test_info_describes_and_prints_the_manifest(classify_bundle: Path) -> None:
    text = infer("info", classify_bundle).stdout
    assert "toy-classify (classify)" in text
    assert "probabilities: float32 (batch, 3)" in text
    manifest = json.loads(infer("info", classify_bundle, "--json").stdout)
    assert manifest["name"] == "toy-classify"


def test_doctor_lists_every_engine() -> None:
    ran = infer("doctor")
    for engine in ("ort", "cuda", "trt", "trt-rtx", "openvino"):
        assert f"\n{engine}" in ran.stdout
    assert "ONNX Runtime, CPU" in ran.stdout
