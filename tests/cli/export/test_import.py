"""`dlcv-export import` prints the bundle's path on stdout, and its parity on stderr."""

import shlex

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.cli.text import fractions_from_text
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import InputError


@pytest.fixture
def net(tmp_path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("MatMul", ["means", "eye"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32), "eye")],
    )
    path = tmp_path / "net.onnx"
    imports = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["import", *map(str, arguments)], catch_exceptions=True)


def test_a_file_becomes_a_bundle(net, tmp_path):
    out = tmp_path / "bundle"
    scaling = ["--scale", "1", "--mean", "104,117,123", "--std", "58", "--channels", "bgr"]
    result = run(net, "--task", "classify", "-o", out, *scaling, "--name", "mine")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    for part in ("probabilities", "embedding", "model.onnx: ", "net.onnx on ONNX Runtime"):
        assert part in result.stderr
    bundle = open_bundle(out)
    assert (bundle.manifest.name, bundle.variant().opset) == ("mine", 18)


def test_labels_and_a_letterbox_reach_the_manifest(net, tmp_path):
    out = tmp_path / "bundle"
    labels = ["--activation", "sigmoid", "--threshold", "0.3", "--logits", "yes"]
    border = ["--resize", "letterbox", "--pad", "1,2,3", "--pad-at", "end"]
    result = run(net, "--task", "classify", "-o", out, *labels, *border)
    assert result.exit_code == 0, result.stderr
    manifest = open_bundle(out).manifest
    assert (manifest.activation, manifest.threshold) == ("sigmoid", 0.3)
    assert (manifest.preprocessing.pad, manifest.preprocessing.pad_at) == ((1, 2, 3), "end")


def test_help_has_an_example_of_each_usual_scaling():
    shown = run("--help").stdout
    for words in ("--mean 0.485,0.456,0.406", "--mean 0.5 --std 0.5", "--mean 104,117,123"):
        assert words in shown
    for words in ("--activation sigmoid --threshold 0.3", "--resize letterbox --pad 114"):
        assert words in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "a"], "--mean takes numbers such as 0.5 or 1/255, not 'a'"),
        (["--scale", "1/0"], "--scale takes numbers such as 0.5 or 1/255, not '1/0'"),
        (["--scale", "1,2,3"], "--scale takes one number, not 3"),
        (["--size", "8"], "--size must be height x width in pixels"),
        (["--resize", "letterbox", "--pad", "grey"], "--pad takes numbers"),
        (["--resize", "letterbox", "--pad", "1,2"], "--pad takes a colour in 0..255"),
    ],
)
def test_an_option_that_is_no_number_is_refused(net, tmp_path, options, message):
    result = run(net, "--task", "classify", "-o", tmp_path / "b", *options)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_what_is_not_installed_is_said_with_the_command(monkeypatch, net, tmp_path):
    monkeypatch.setattr("dlcv.runtime.machine.system.is_importable", lambda name: name != "onnx")
    result = run(net, "--task", "classify", "-o", tmp_path / "b")
    assert str(result.exception) == "this needs onnx; run pip install 'dlcv[cpu]' onnx pyyaml"


def test_fractions_are_numbers():
    assert fractions_from_text("1/255, 0.5,1e-3", option="--mean") == (1 / 255, 0.5, 0.001)


def test_the_model_card_can_be_completed_and_has_the_command_without_folders(net, tmp_path):
    out, names = tmp_path / "bundle", tmp_path / "names.csv"
    names.write_text("name,color\nred,#ff0000\ngreen,#00ff00\nblue,#0000ff\n")
    said = [
        "--name",
        "means",
        "--description",
        "Names the strongest colour.",
        "--licence",
        "CC0 1.0",
    ]
    said += ["--data-note", "Nothing.", "--limit", "It knows 3 colours.", "--limit", "It's a test."]
    result = run(net, "--task", "classify", "-o", out, "--classes", names, *said)
    assert result.exit_code == 0, result.stderr
    bundle = open_bundle(out)
    card = bundle.read("README.md").decode()
    for text in ("Names the strongest colour.", "## Data\n\nNothing.", "## Licence\n\nCC0 1.0"):
        assert text in card
    assert "- It knows 3 colours.\n- It's a test.\n" in card
    assert (bundle.manifest.name, bundle.manifest.licence) == ("means", "CC0 1.0")
    assert bundle.manifest.classes[1].color == (0, 255, 0)
    command = card.strip().splitlines()[-2]
    assert command.startswith("dlcv-export import net.onnx --task classify ")
    assert "--classes names.csv" in command
    assert shlex.split(command)[-12:] == [*said[2:], "-o", "means"]
    assert str(tmp_path) not in card


@pytest.mark.parametrize("option", ["--description", "--licence", "--data-note", "--limit"])
def test_texts_of_the_model_card_are_one_line(option, net, tmp_path):
    result = run(net, "--task", "classify", "-o", tmp_path / "bundle", option, "a\n## b")
    assert result.exit_code == 1
    assert f"{option} takes one line of text, not 'a\\n## b'" in str(result.exception)
