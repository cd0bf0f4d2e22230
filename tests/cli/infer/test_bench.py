"""`dlcv-infer bench` at the command line: table, files, and mistakes in options."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dlcv.cli.infer.app import app
from dlcv.runtime.errors import InputError
from dlcv.runtime.machine import system

QUICK = ("--engines", "ort", "--batches", "1", "--seconds", "0.1")


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_bench_prints_a_table_and_writes_json_and_plot(
    classify_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    ran = infer("bench", classify_bundle, *QUICK, "--out", out)
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.splitlines()[0].split()[:2] == ["figure", "engine"]
    figures = json.loads((out / "bench.json").read_text())["figures"]
    assert len(figures) == len(ran.stdout.splitlines()) - 1
    assert (out / "bench.png").stat().st_size > 10_000


def test_malformed_batches_are_an_error(classify_bundle: Path) -> None:
    ran = infer("bench", classify_bundle, "--batches", "1,two")
    assert isinstance(ran.exception, InputError)
    assert "--batches takes numbers" in str(ran.exception)


def test_options_of_a_checkpoint_need_the_checkpoint(classify_bundle: Path) -> None:
    ran = infer("bench", classify_bundle, "--random")
    assert isinstance(ran.exception, InputError)
    assert "--random says what --checkpoint loads" in str(ran.exception)


def test_a_plot_without_matplotlib_is_refused_before_the_work(
    classify_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "is_importable", lambda module: False)
    ran = infer("bench", classify_bundle, "--out", tmp_path)
    assert isinstance(ran.exception, InputError)
    assert "pip install 'dlcv[plot]'" in str(ran.exception)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "in_chans=1"], "has number of classes 1000, the bundle 'toy-classify' 3"),
        (["--classes", "3.txt", "--set", "in_chans=1"], "channels 1, the bundle 'toy-classify' 3"),
        (["--set", "num_classes=0"], "has task embed, the bundle 'toy-classify' classify"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    classify_bundle: Path,
    more: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3.txt").write_text("one\ntwo\nthree\n")
    ran = infer("bench", classify_bundle, "--checkpoint", "timm:resnet10t", "--random", *more)
    assert isinstance(ran.exception, InputError)
    assert message in str(ran.exception)
