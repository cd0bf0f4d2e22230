"""What the documents say is true: Python blocks run, generated pages are current."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlcv.cli.reference import reference
from dlcv.runtime.images.samples import SAMPLES_FOLDER

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_python_blocks_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(SAMPLES_FOLDER / "street_taxis.jpg", tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102  # our own README
    assert blocks
    assert "(478, 928)" in capsys.readouterr().out
    assert (tmp_path / "overlay.png").stat().st_size > 10_000


def test_the_commands_of_the_readme_print_what_it_shows() -> None:
    blocks = re.findall(r"```console\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        command, *shown = block.strip().splitlines()
        program, *arguments = shlex.split(command.removeprefix("$ "))
        module = program.removeprefix("dlcv-")
        entry = f"from dlcv.cli.{module}.app import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", entry, *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        for line, printed in zip(shown, ran.stdout.splitlines(), strict=True):
            expected, received = json.loads(line), json.loads(printed)
            assert expected["label"] == received["label"]
            assert expected["probability"] == pytest.approx(received["probability"], abs=1e-3)


def test_every_link_and_picture_of_the_documents_exists() -> None:
    for page in (
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *REPOSITORY.glob("docs/*.md"),
    ):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_command_reference_is_current() -> None:
    written = (REPOSITORY / "docs" / "cli.md").read_text()
    assert written == reference(), "docs/cli.md is stale: run make docs"
