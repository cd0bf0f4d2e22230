"""`dlcv-export engine` prints the engine's path on stdout, and what it is on stderr."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import BundleError, InputError

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


def run(*arguments):
    return CliRunner().invoke(app, ["engine", *map(str, arguments)], catch_exceptions=True)


def test_an_engine_goes_into_the_cache(segment_bundle, tmp_path):
    result = run(segment_bundle, "--target", "rtx", "--outputs", "mask", "--profile", "1,2,4")
    assert result.exit_code == 0, result.stderr
    path = Path(result.stdout.strip())
    assert path.is_file()
    assert path.is_relative_to(tmp_path / "cache" / "engines")
    assert re.search(
        r"TensorRT-RTX \S+, device: any; fp32 \(.* of its compute layers\); batch 1,2,4; height "
        r"8,32,32; width 8,32,32; \d+\.\d MB, built in \d+\.\d s",
        result.stderr,
    )


def test_an_engine_goes_into_the_bundle(new_bundle):
    folder = new_bundle("classify")
    result = run(folder, "--target", "rtx", "--into-bundle")
    assert result.exit_code == 0, result.stderr
    (plan,) = open_bundle(folder).variant().plans
    assert result.stdout.strip() == str(folder / plan.file)


def test_an_engine_goes_to_a_file(classify_bundle, tmp_path):
    result = run(classify_bundle, "--target", "rtx", "-o", tmp_path / "a.plan")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "a.plan").is_file()
    assert (tmp_path / "a.plan.json").is_file()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (["--into-bundle", "-o", "a.plan"], InputError, "give --into-bundle or --out"),
        (["--precision", "int8"], BundleError, "has no int8 graph, only fp32"),
        (["--outputs", "masks"], BundleError, "has no output 'masks', only mask, confidence"),
        (["--profile", "8"], InputError, "such as 1,8,32, not '8'"),
        (["-E", "fast=1"], InputError, "engine 'trt-rtx' has no setting 'fast'; it has device,"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(segment_bundle, options, kind, message):
    result = run(segment_bundle, "--target", "rtx", *options)
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
