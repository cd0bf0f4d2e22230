"""`dlcv-export`: make bundles from checkpoints."""

from __future__ import annotations

from dlcv.cli.edge import new_app, run_app

app = new_app(
    "dlcv-export",
    "Turn checkpoints and ONNX files into bundles, and prove that they give the same answers.",
    epilog="Exit code 0: done; 1: not done, and why.",
    package="dlcv.cli.export",
    commands=(
        "bundle",
        "precision",
        "verify",
        "engine",
        "any-size",
        "triton",
        "record",
        "import",
    ),
)


def main() -> None:
    """Entry point of `dlcv-export`."""
    run_app(app, name="dlcv-export")
