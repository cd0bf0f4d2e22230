"""`dlcv-train`: one file a command; this one only puts them together."""

from __future__ import annotations

import typer

from dlcv.cli.edge import run_app
from dlcv.cli.train.evaluate import evaluate
from dlcv.cli.train.fit import fit
from dlcv.cli.train.recipes import recipes

app = typer.Typer(
    name="dlcv-train",
    help="Train from recipes: networks, data and settings as YAML, checkpoints as safetensors.",
    epilog="Exit code 0: all done; 1: refused or failed, with one line that says why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (fit, evaluate, recipes):
    app.command()(command)


def main() -> None:
    """Entry point of `dlcv-train`."""
    run_app(app, name="dlcv-train")
