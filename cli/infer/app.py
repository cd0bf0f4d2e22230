"""`dlcv-infer`: run bundles on images."""

from __future__ import annotations

from dlcv.cli.edge import new_app, run_app

app = new_app(
    "dlcv-infer",
    "Run bundles on images: classes, masks, attention maps, embeddings.",
    epilog="Exit code 0: all done; 1: nothing could run; 3: finished, some inputs refused, as listed.",
    package="dlcv.cli.infer",
    commands=(
        "classify",
        "segment",
        "attend",
        "embed",
        "fewshot",
        "caption",
        "serve",
        "evaluate",
        "info",
        "check",
        "tune",
        "bench",
        "doctor",
    ),
)


def main() -> None:
    """Entry point of `dlcv-infer`."""
    run_app(app, name="dlcv-infer")
