"""`dlcv-export` prints the bundle's path and nothing else on stdout; mistakes are one line."""

import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import InputError, OutputError, ParityError

RANDOM_VIT = ["timm:test_vit", "--random", "--size", "32x32"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "vit"
    return out, run("bundle", *RANDOM_VIT, "-o", out, "--name", "my-vit", "--licence", "MIT")


def test_bundle_prints_its_path_and_reports_on_stderr(made):
    out, result = made
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    for part in ("probabilities", "attention", "model.onnx: ", "PyTorch"):
        assert part in result.stderr
    manifest = open_bundle(out).manifest
    assert (manifest.name, manifest.licence) == ("my-vit", "MIT")


def test_what_is_there_is_refused_before_the_work(made):
    out, _ = made
    started = time.monotonic()
    result = run("bundle", *RANDOM_VIT, "-o", out)
    assert isinstance(result.exception, OutputError)
    assert time.monotonic() - started < 1


def test_verify_compares_with_the_source(made):
    out, _ = made
    result = run("verify", out, *RANDOM_VIT)
    assert result.exit_code == 0, result.stderr
    assert "explanation" in result.stdout
    other = run("verify", out, "timm:test_vit2", "--random", "--size", "32x32")
    assert isinstance(other.exception, ParityError)


@pytest.mark.parametrize("size", ["224", "0x3", "axb", "-1x4", "3x"])
def test_a_size_that_is_none_is_refused(size, tmp_path):
    result = run("bundle", "timm:test_vit", "--random", f"--size={size}", "-o", tmp_path / "b")
    assert isinstance(result.exception, InputError)
    assert "--size must be height x width in pixels" in str(result.exception)


def test_a_mistake_is_one_line_without_a_traceback(tmp_path):
    program = "from dlcv.cli.export.app import main; main()"
    arguments = ["bundle", "timm:no_such_model", "--random", "-o", str(tmp_path / "b")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("dlcv-export: timm ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["bundle", "verify"])
def test_help_has_examples(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    dlcv-export {command} " in result.stdout


def test_what_is_not_installed_is_said_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "dlcv.runtime.machine.system.is_importable", lambda name: name != "onnxscript"
    )
    result = run("bundle", *RANDOM_VIT, "-o", tmp_path / "b")
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "export needs onnxscript; run pip install 'dlcv[cpu,export]'"
