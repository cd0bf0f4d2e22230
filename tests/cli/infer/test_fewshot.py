"""`dlcv-infer fewshot`: support, saved prototypes, lists, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcv.cli.edge import EXIT_SOME_REFUSED
from dlcv.cli.infer.app import app
from dlcv.runtime.errors import DlcvError

NewPhoto = Callable[..., Path]


@pytest.fixture
def fewshot(classify_bundle: Path) -> Callable[..., tuple[int, str]]:
    """Run the command on the toy bundle; return exit code and what it printed to stdout."""

    def run(*arguments: object) -> tuple[int, str]:
        words = ["fewshot", *map(str, arguments), "-m", str(classify_bundle), "-e", "ort"]
        ran = CliRunner().invoke(app, words)
        if isinstance(ran.exception, DlcvError):
            raise ran.exception
        return ran.exit_code, ran.stdout

    return run


@pytest.fixture
def support(new_photo: NewPhoto, tmp_path: Path) -> Path:
    for color in ("red", "blue"):
        new_photo(f"support/{color}/0.png", color=color)
    return tmp_path / "support"


def test_it_answers_in_the_form_of_classify(fewshot, support, new_photo, tmp_path) -> None:
    photo = new_photo("query.png", color=(250, 40, 0))
    code, printed = fewshot(photo, "--support", support, "--top", 1)
    record = json.loads(printed)
    assert (code, record["label"], len(record["top"])) == (0, "red", 1)
    assert record["probability"] > 0.9
    out = tmp_path / "out"
    code, _ = fewshot(photo, "--support", support, "--out", out, "-f", "csv", "--overlay")
    assert [picture.name for picture in (out / "overlays").iterdir()] == ["query.png"]
    header = (tmp_path / "out" / "results.csv").read_text().splitlines()[0]
    assert header == "image,height,width,label,index,probability,top,overlay,engine"
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["prototypes"]) == 64


def test_prototypes_are_kept_extended_and_listed(fewshot, support, new_photo, tmp_path) -> None:
    file = tmp_path / "made.npz"
    fewshot("--support", support, "--save-prototypes", file)
    new_photo("more/green/0.png", color="lime")
    more = tmp_path / "more"
    fewshot("--prototypes", file, "--support", more, "--save-prototypes", file)
    _, printed = fewshot("--prototypes", file, "--list")
    assert [line.split() for line in printed.splitlines()] == [
        ["class", "examples"],
        ["blue", "1"],
        ["red", "1"],
        ["green", "1"],
    ]
    _, printed = fewshot(more / "green" / "0.png", "--prototypes", file)
    assert json.loads(printed)["label"] == "green"


def test_a_bad_query_is_a_line_in_the_report(fewshot, support, new_photo, tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = new_photo("good.png", color="blue")
    code, printed = fewshot(tmp_path / "bad.png", good, "--support", support)
    assert code == EXIT_SOME_REFUSED
    assert json.loads(printed)["label"] == "blue"


def test_a_resumed_run_has_the_same_prototypes(fewshot, support, new_photo, tmp_path) -> None:
    photo, out = new_photo("query.png"), tmp_path / "out"
    fewshot(photo, "--support", support, "--out", out)
    fewshot(photo, "--support", support, "--out", out, "--resume")
    new_photo("support/green/0.png", color="lime")
    with pytest.raises(DlcvError, match="was made with another prototypes"):
        fewshot(photo, "--support", support, "--out", out, "--resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "classes come from --support DIR or --prototypes FILE"),
        (["--support", "SUPPORT"], "nothing to do: give images, --save-prototypes or --list"),
        (["--prototypes", "none.npz", "--list"], "there are no prototypes at none.npz"),
        (["--support", "SUPPORT", "--save-prototypes", "SUPPORT"], "exists; choose another name"),
    ],
)
def test_what_does_not_fit_is_refused(fewshot, support, arguments, message) -> None:
    words = [str(support) if word == "SUPPORT" else word for word in arguments]
    with pytest.raises(DlcvError, match=message):
        fewshot(*words)
