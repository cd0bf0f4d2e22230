"""`dlcv-export precision` adds a variant behind its gates, or says in one sentence why not."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.cli.export.precision import budget_from_text
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.bundle.report import text_from_bundle
from dlcv.runtime.engines.openvino import OpenVinoEngine
from dlcv.runtime.errors import InputError, OutputError, ParityError
from dlcv.runtime.images.samples import sample_paths


def run(*arguments):
    return CliRunner().invoke(app, ["precision", *(str(a) for a in arguments)])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(18):
        paths = sample_paths()
        with Image.open(paths[number % len(paths)]) as photo:
            photo.rotate(7 * number).resize((48, 48)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def added(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "vit"
    return out, run("cifar10-vit", "--to", "int8", "--calibrate", photos, "-o", out)


def test_a_variant_is_added_to_a_copy_and_reported(added):
    out, result = added
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{out}\n"
    assert "probabilities" in result.stderr
    assert "18 images are few for calibration" in result.stderr
    bundle = open_bundle(out)
    assert list(bundle.graph().variants) == ["fp32", "int8-cpu"]
    assert bundle.variant("int8").parity.engine.endswith("int8 by NNCF")
    assert str(out.parent) not in json.dumps(bundle.variant("int8").parity.images)
    assert "| int8-cpu | model.int8-cpu.onnx |" in (out / "README.md").read_text()
    assert "model.int8-cpu.onnx" in text_from_bundle(bundle)


def test_the_gate_runs_on_both_engines_of_the_cpu(added):
    pytest.importorskip("openvino")
    engine = open_bundle(added[0]).variant("int8").parity.engine
    assert re.fullmatch(r"ort \S+ cpu and openvino \S+ cpu, int8 by NNCF", engine)


def test_it_needs_no_pytorch(photos, tmp_path):
    entry = "import sys; sys.modules['torch'] = None\nfrom dlcv.cli.export.app import main; main()"
    command = [sys.executable, "-c", entry, "precision", "cifar10-vit", "--to", "fp16"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "b")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "b").variant("fp16").kept


def test_adding_again_changes_the_bundle_in_place(added):
    out, _ = added
    assert run(out, "--to", "bf16").exit_code == 0
    bundle = open_bundle(out)
    assert list(bundle.graph().variants) == ["fp32", "int8-cpu", "bf16"]
    assert bundle.variant("bf16").opset == 22
    assert (out / "README.md").read_text().count("## Precisions") == 1


def test_a_bundle_may_have_a_graph_for_cpus_and_one_for_tensorrt(added, photos, tmp_path):
    arguments = ("--to", "int8", "--for", "tensorrt", "--calibrate", photos, "-o", tmp_path / "b")
    result = run(added[0], *arguments)
    assert result.exit_code == 0, result.exception
    bundle = open_bundle(tmp_path / "b")
    assert bundle.variant("int8", target="tensorrt").file == "model.int8-tensorrt.onnx"
    assert bundle.variant("int8", target="cpu").file == "model.int8-cpu.onnx"
    assert "activations clipped by" in bundle.variant("int8", target="tensorrt").parity.engine
    assert "model.int8-tensorrt.onnx:" in result.stderr


def test_what_fails_on_openvino_alone_is_refused(photos, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    exact = OpenVinoEngine.infer

    def wrong(engine, feeds):
        return {name: array[::-1] * 0 for name, array in exact(engine, feeds).items()}

    monkeypatch.setattr(OpenVinoEngine, "infer", wrong)
    monkeypatch.setattr("dlcv.export.precision.search._steps", lambda most: [])
    result = run("cifar10-vit", "--to", "int8", "--calibrate", photos, "-o", tmp_path / "b")
    assert isinstance(result.exception, ParityError)
    assert str(result.exception).startswith("openvino")
    assert not (tmp_path / "b").exists()


def labelled_folder(tmp_path, *, names):
    for number, name in enumerate(names):
        path = tmp_path / "labelled" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 30 * number, np.uint8)).save(path)
    return tmp_path / "labelled"


def test_accuracy_is_measured_and_recorded(tmp_path):
    data = labelled_folder(tmp_path, names=("cat", "dog"))
    result = run("cifar10-vit", "--to", "fp16", "--labelled", data, "-o", tmp_path / "b")
    assert result.exit_code == 0, result.exception
    accuracy = open_bundle(tmp_path / "b").variant("fp16").accuracy
    assert accuracy is not None
    assert (accuracy.metric, accuracy.images, accuracy.data) == ("top1", 2, "labelled")
    assert accuracy.value == accuracy.baseline
    assert "top1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["--to", "int8"], InputError, "give --calibrate IMAGES"),
        (["--to", "fp16"], OutputError, "write a copy with -o"),
        (["--to", "fp16", "--budget", "lots"], InputError, "--budget must be a share"),
        (["--to", "fp16", "-o", "."], OutputError, "exists"),
        (["--to", "fp16", "--for", "cpu"], InputError, "--for is of int8 only"),
    ],
)
def test_mistakes_are_one_sentence(arguments, kind, words):
    result = run("cifar10-vit", *arguments)
    assert isinstance(result.exception, kind)
    assert re.search(words, str(result.exception))


def test_too_few_images_and_unreadable_ones_are_named(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    result = run("cifar10-vit", "--to", "int8", "--calibrate", tmp_path, "-o", tmp_path / "b")
    assert isinstance(result.exception, InputError)
    assert "needs 16 readable images or more (better 100), received 0 of 20" in str(
        result.exception
    )
    assert "skipped" in result.stderr
    assert "19.png: not an image" in result.stderr
    assert not (tmp_path / "b").exists()


def test_a_budget_is_a_share_or_per_cent():
    assert budget_from_text("0.5%") == budget_from_text(".005") == 0.005
    for text in ("-1", "150%", "nan", ""):
        with pytest.raises(InputError, match="--budget"):
            budget_from_text(text)


def test_a_broken_conversion_is_refused_and_nothing_written(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dlcv.export.precision.candidates.threshold_from_histogram",
        lambda counts, largest, *, method: largest / 50,  # nearly everything saturates
    )
    out = tmp_path / "b"
    kind = ("--to", "int8", "--for", "tensorrt")
    result = run("cifar10-vit", *kind, "--calibrate", photos, "-o", out)
    assert isinstance(result.exception, ParityError)
    assert re.search(r"(?s)'\w+' has a .*Worst tensors: \w+ \(\d", str(result.exception))
    assert not out.exists()
