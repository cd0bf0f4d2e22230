"""`dlcv-export`: make bundles from checkpoints."""

from __future__ import annotations

import typer

from dlcv.cli.edge import run_app
from dlcv.cli.export.bundle import bundle
from dlcv.cli.export.verify import verify

app = typer.Typer(
    name="dlcv-export",
    help="Turn checkpoints into bundles, and prove that they give the checkpoint's answers.",
    epilog="Exit code 0: done; 1: not done, and why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (bundle, verify):
    app.command()(command)


def main() -> None:
    """Entry point of `dlcv-export`."""
    run_app(app, name="dlcv-export")
