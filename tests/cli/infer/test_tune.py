"""`dlcv-infer tune` at the command line: table, what is remembered, and mistakes in options."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dlcv.cli.infer.app import app
from dlcv.cli.text import numbers_from_text, words_from_text
from dlcv.runtime.errors import DlcvError, InputError
from dlcv.runtime.measure import tune


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_tune_prints_the_table_and_says_what_auto_takes(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "unsteadiness", lambda *_: "")  # others may run here
    tuned = infer(
        "tune",
        classify_bundle,
        "--engines",
        "ort",
        "--batches",
        "2",
        "--threads",
        1,
        "--seconds",
        0.1,
    )
    assert tuned.exit_code == 0, tuned.stderr
    head, *rows = tuned.stdout.splitlines()
    assert head.split()[:4] == ["engine", "precision", "batch", "threads"]
    assert [row.split()[0] for row in rows] == ["ort", "ort", "plain"]
    assert "--engine auto now takes ort fp32" in tuned.stderr
    assert "batch 2, threads 1: " in tuned.stderr


def test_an_engine_that_is_unknown_is_an_error(classify_bundle: Path) -> None:
    tuned = infer("tune", classify_bundle, "--engines", "ort,otr")
    assert isinstance(tuned.exception, DlcvError)
    assert "unknown engine 'otr'" in str(tuned.exception)


@pytest.mark.parametrize("text", ["", "0", "1,x", "-1", "1.5", ","])
def test_a_list_of_numbers_must_be_one(text: str) -> None:
    with pytest.raises(
        InputError, match="--batches takes numbers of 1 or more, such as 1,8,32, not"
    ):
        numbers_from_text(text, option="--batches")


def test_lists_are_split_at_commas() -> None:
    assert numbers_from_text(None, option="--batches") is None
    assert numbers_from_text("1, 8,32", option="--batches") == (1, 8, 32)
    assert words_from_text("ort, openvino,") == ("ort", "openvino")
