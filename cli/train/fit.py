"""`dlcv-train fit`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer


def fit(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a built-in recipe by name.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the checkpoint; without it, runs/NAME.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's number.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out after its last epoch.")
    ] = False,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX",
            help="Tensors that may be missing in the weights file; `head`: those that depend on the classes. Repeat for more.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Start from the backbone of this run, or of this weights file, without its head.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard, too.")
    ] = False,
    devices: Annotated[
        int, typer.Option(min=1, help="GPUs, or CPU processes, of each machine.")
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; start the command on each.")] = 1,
    strategy: Annotated[
        str, typer.Option(help="How devices work together, as Lightning calls it: ddp, fsdp, ...")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, PyTorch decides.")
    ] = None,
) -> None:
    """Train a recipe and write the best checkpoint.

    \b
    Examples:
      dlcv-train fit cifar10-vit --data ~/data
      dlcv-train fit my-recipe.yaml --out runs/mine --epochs 3 --threads 4
      dlcv-train fit my-recipe.yaml --out runs/mine --epochs 3 --resume
      dlcv-train fit my-recipe.yaml --backbone runs/cifar10-byol
      dlcv-train fit my-recipe.yaml --out runs/mine --devices 8 --nodes 2
    """
    from dlcv.train.fit import fit as train
    from dlcv.train.hardware import Hardware
    from dlcv.train.recipe import changed, data_root, load_recipe
    from dlcv.train.tasks import task_kind

    quiet_lightning()
    missing = tuple(allow_missing) if allow_missing else None
    changes: dict[str, Any] = {"epochs": epochs, "seed": seed, "backbone": backbone}
    chosen = changed(load_recipe(recipe), allow_missing=missing, **changes)
    folder = out or Path("runs") / chosen.name
    hardware = Hardware(devices=devices, nodes=nodes, strategy=strategy, threads=threads)
    metrics = train(
        chosen,
        data_root(data),
        out=folder,
        resume=resume,
        hardware=hardware,
        tensorboard=tensorboard,
    )
    monitor = task_kind(chosen.task).monitor
    if "images" in metrics:  # not in the other processes of a multi-device run
        print(f"{folder}: {monitor} {metrics[monitor]:.4f} on {metrics['images']} images")


def quiet_lightning() -> None:
    """Suppress Lightning's messages that are meant for its developers and customers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # tips and advertisements
    warnings.filterwarnings("ignore", module="lightning")  # about PyTorch
