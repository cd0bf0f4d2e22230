"""`dlcv-train`: train from recipes."""

from __future__ import annotations

from dlcv.cli.edge import new_app, run_app

app = new_app(
    "dlcv-train",
    "Train from recipes: networks, data and settings as YAML, checkpoints as safetensors.",
    epilog="Exit code 0: all done; 1: refused or failed, with one line that says why.",
    package="dlcv.cli.train",
    commands=(
        "fit",
        "evaluate",
        "figures",
        "data",
        "recipes",
        "summary",
        "transfer",
    ),
)


def main() -> None:
    """Entry point of `dlcv-train`."""
    run_app(app, name="dlcv-train")
