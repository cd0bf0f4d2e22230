"""`dlcv-train evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A checkpoint folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, PyTorch decides.")
    ] = None,
) -> None:
    """Score a checkpoint on the validation or test images of its recipe, in float32.

    \b
    Examples:
      dlcv-train evaluate runs/cifar10-vit --data ~/data
      dlcv-train evaluate runs/camvid-lraspp --json
    """
    import msgspec
    import torch

    from dlcv.runtime.bundle.report import table
    from dlcv.train.checkpoint import load_checkpoint
    from dlcv.train.recipe import data_root
    from dlcv.train.tasks import task_kind

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(run)
    metrics = task_kind(checkpoint.recipe.task).evaluate(checkpoint, data_root(data))
    if json:
        print(msgspec.json.encode(metrics).decode())
        return
    rows = [
        (key, str(figure if figure is None else round(figure, 4)))
        for name, value in metrics.items()
        for key, figure in (value.items() if isinstance(value, dict) else [(name, value)])
    ]
    print("\n".join(table(rows)))
