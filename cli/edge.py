"""The edge of every command: exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

EXIT_FAILED = 1
EXIT_SOME_REFUSED = 3
EXIT_INTERRUPTED = 130


def run_app(app: typer.Typer, *, name: str) -> None:
    """Run a command-line app: a `DlcvError` becomes one line on stderr and exit code 1.

    Anything else is a bug of ours and keeps its traceback.
    """
    from dlcv.runtime.errors import DlcvError

    try:
        app(prog_name=name)
    except DlcvError as e:
        print(f"{name}: {e}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
