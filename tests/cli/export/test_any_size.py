"""`dlcv-export any-size` prints the bundle on stdout, and what it measured on stderr."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcv.cli.export.app import app
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import InputError, OutputError


def run(*arguments):
    return CliRunner().invoke(app, ["any-size", *map(str, arguments)], catch_exceptions=True)


def test_a_copy_of_a_bundle_gets_the_graph(classify_bundle: Path, tmp_path: Path) -> None:
    result = run(classify_bundle, "-o", tmp_path / "copy")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "copy")
    assert "resized" in result.stderr
    assert "after the resize of Pillow" in result.stderr
    assert "model.any-size.onnx" in result.stderr
    made = open_bundle(tmp_path / "copy").graph().any_size
    assert made is not None
    assert made.parity.images == "the sample photos of dlcv"


def test_it_is_proved_on_the_images_given(new_bundle, new_photo) -> None:
    path = new_bundle()
    photos = [
        new_photo(name, size=size) for name, size in (("a.png", (60, 40)), ("b.png", (9, 50)))
    ]
    result = run(path, "--images", photos[0], "--images", photos[1])
    assert result.exit_code == 0, result.stderr
    made = open_bundle(path).graph().any_size
    assert made is not None
    assert made.parity.input_shapes == ((1, 40, 60, 3), (1, 50, 9, 3))
    assert made.parity.images == "2 images given"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["imagenet-lite0"], OutputError, "write a copy with -o FOLDER"),
        (["imagenet-lite0", "-o", "."], OutputError, "exists; choose another name"),
        (["imagenet-lite0", "-o", "x", "--images", "gone.jpg"], InputError, "no image or folder"),
    ],
)
def test_what_does_not_do_is_one_sentence(arguments, kind, message) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)


def test_the_command_is_in_the_help_under_its_name_with_a_hyphen() -> None:
    listed = CliRunner().invoke(app, ["--help"])
    assert " any-size " in listed.stdout
    own = run("--help")
    assert "Usage: " in own.stdout
    assert "dlcv-export any-size imagenet-lite0 -o" in own.stdout
