"""The edge of every command: exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

import sys

import typer

EXIT_FAILED = 1
EXIT_SOME_REFUSED = 3
EXIT_INTERRUPTED = 130


def new_app(name: str, help: str, *, epilog: str) -> typer.Typer:
    """Return an empty command-line app with the settings that all of ours share."""
    return typer.Typer(
        name=name,
        help=help,
        epilog=epilog,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def run_app(app: typer.Typer, *, name: str) -> None:
    """Run a command-line app: a `DlcvError` becomes one line on stderr and exit code 1.

    Anything else is a bug of ours and keeps its traceback.
    """
    try:
        app(prog_name=name)
    except Exception as e:  # the edge; `--help` must not wait for numpy
        from dlcv.runtime.errors import DlcvError

        if not isinstance(e, DlcvError):
            raise
        print(f"{name}: {e}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
