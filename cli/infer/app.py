"""`dlcv-infer`: run bundles on images."""

from __future__ import annotations

from dlcv.cli.edge import new_app, run_app
from dlcv.cli.infer.attend import attend
from dlcv.cli.infer.bench import bench
from dlcv.cli.infer.caption import caption
from dlcv.cli.infer.check import check
from dlcv.cli.infer.classify import classify
from dlcv.cli.infer.doctor import doctor
from dlcv.cli.infer.embed import embed
from dlcv.cli.infer.evaluate import evaluate
from dlcv.cli.infer.fewshot import fewshot
from dlcv.cli.infer.info import info
from dlcv.cli.infer.segment import segment
from dlcv.cli.infer.serve import serve
from dlcv.cli.infer.tune import tune

app = new_app(
    "dlcv-infer",
    "Run bundles on images: classes, masks, attention maps, embeddings.",
    epilog="Exit code 0: all done; 1: nothing could run; 3: finished, some inputs refused, as listed.",
)
for command in (
    classify,
    segment,
    attend,
    embed,
    fewshot,
    caption,
    serve,
    evaluate,
    info,
    check,
    tune,
    bench,
    doctor,
):
    app.command()(command)


def main() -> None:
    """Entry point of `dlcv-infer`."""
    run_app(app, name="dlcv-infer")
