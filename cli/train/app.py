"""`dlcv-train`: registers the commands. Each command is one file."""

from __future__ import annotations

from dlcv.cli.edge import new_app, run_app
from dlcv.cli.quiet import quiet_decoders
from dlcv.cli.train.data import data
from dlcv.cli.train.evaluate import evaluate
from dlcv.cli.train.figures import figures
from dlcv.cli.train.fit import fit
from dlcv.cli.train.recipes import recipes
from dlcv.cli.train.summary import summary
from dlcv.cli.train.transfer import transfer

app = new_app(
    "dlcv-train",
    "Train from recipes: networks, data and settings as YAML, checkpoints as safetensors.",
    epilog="Exit code 0: all done; 1: refused or failed, with one line that says why.",
)


@app.callback()
def prepare() -> None:
    """Run before every command."""
    quiet_decoders()


for command in (fit, evaluate, figures, data, recipes, summary, transfer):
    app.command()(command)


def main() -> None:
    """Entry point of `dlcv-train`."""
    run_app(app, name="dlcv-train")
