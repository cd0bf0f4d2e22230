"""`docs/cli.md`, written from the live commands: `python -m dlcv.cli.reference > docs/cli.md`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import cast

import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

APPS = ("infer", "train", "export")
_WIDTH = "100"
_HEAD = """# Command reference

Made by `make docs` from the commands themselves; do not edit.
"""


def reference() -> str:
    """Return the help of every command as Markdown."""
    return "\n".join((_HEAD, *(section for name in APPS for section in _sections(name))))


def _sections(name: str) -> Iterator[str]:
    app: typer.Typer = importlib.import_module(f"dlcv.cli.{name}.app").app
    program = f"dlcv-{name}"
    yield f"## {program}\n\n{_help(app, program)}"
    for title in cast("TyperGroup", get_command(app)).commands:
        yield f"### {program} {title}\n\n{_help(app, program, title)}"


def _help(app: typer.Typer, program: str, *arguments: str) -> str:
    environment = {"COLUMNS": _WIDTH, "TERMINAL_WIDTH": _WIDTH, "NO_COLOR": "1"}
    answer = CliRunner(env=environment).invoke(app, [*arguments, "--help"], prog_name=program)
    text = re.sub(r"[ \t]+$", "", answer.output.strip(), flags=re.MULTILINE)
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")
