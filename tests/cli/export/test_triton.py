"""`dlcv-export triton` prints the models' folders on stdout, and hands its options on."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.runtime.errors import InputError, OutputError


def run(*arguments):
    return CliRunner().invoke(app, ["triton", *map(str, arguments)], catch_exceptions=True)


def test_models_are_written_and_named(classify_bundle, segment_bundle, tmp_path):
    result = run(classify_bundle, segment_bundle, "-o", tmp_path / "repository")
    assert result.exit_code == 0, result.output
    folders = [tmp_path / "repository" / name for name in ("toy-classify", "toy-segment")]
    assert result.stdout.splitlines() == [str(folder) for folder in folders]
    assert all((folder / "1" / "model.onnx").is_file() for folder in folders)


def test_options_reach_the_configuration(segment_bundle, tmp_path):
    options = ("--outputs", "mask, confidence", "--batch", 4, "--cpu", "--queue-delay", 250)
    result = run(segment_bundle, "-o", tmp_path, *options, "--version", 3)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "toy-segment" / "config.pbtxt").read_text()
    assert "max_batch_size: 4\n" in text
    assert "kind: KIND_CPU" in text
    assert "max_queue_delay_microseconds: 250" in text
    assert (tmp_path / "toy-segment" / "3" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (["--plan", "a.plan"], InputError, "a plan is for the backend tensorrt; add --backend"),
        (["--backend", "tensorrt", "--cpu"], InputError, "runs on a GPU; leave out --cpu"),
        (["--backend", "tensorrt"], InputError, "has no plan, in this precision"),
    ],
)
def test_options_that_do_not_fit_are_refused(segment_bundle, tmp_path, options, kind, message):
    result = run(segment_bundle, "-o", tmp_path, *options)
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)


def test_a_repository_that_cannot_be_written_is_said(classify_bundle, tmp_path):
    (tmp_path / "file").touch()
    result = run(classify_bundle, "-o", tmp_path / "file")
    assert isinstance(result.exception, OutputError)
    assert "cannot write the model" in str(result.exception)


def test_it_needs_neither_pytorch_nor_an_engine(classify_bundle, tmp_path):
    program = f"""
import sys
for name in ("torch", "onnx", "onnxruntime", "google", "tritonclient"):
    sys.modules[name] = None
sys.argv = ["dlcv-export", "triton", {str(classify_bundle)!r}, "-o", {str(tmp_path)!r}]
from dlcv.cli.export.app import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "toy-classify")
