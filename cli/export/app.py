"""`dlcv-export`: make bundles from checkpoints."""

from __future__ import annotations

from dlcv.cli.edge import new_app, run_app
from dlcv.cli.export.bundle import bundle
from dlcv.cli.export.engine import engine
from dlcv.cli.export.import_ import import_
from dlcv.cli.export.precision import precision
from dlcv.cli.export.record import record
from dlcv.cli.export.triton import triton
from dlcv.cli.export.verify import verify

app = new_app(
    "dlcv-export",
    "Turn checkpoints and ONNX files into bundles, and prove that they give the same answers.",
    epilog="Exit code 0: done; 1: not done, and why.",
)
for command in (bundle, precision, verify, engine, triton, record):
    app.command()(command)
app.command("import")(import_)


def main() -> None:
    """Entry point of `dlcv-export`."""
    run_app(app, name="dlcv-export")
