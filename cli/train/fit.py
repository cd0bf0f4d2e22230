"""`dlcv-train fit`."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from dlcv.train.folders import RunOptions


def fit(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or a built-in recipe by name. Without it, --network, --data and --task.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data root; without it, the variable DLCV_DATA. With --network, the folder with your images."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the checkpoint; without it, runs/NAME.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train this network on a folder of your images: timm:NAME, torchvision:NAME, smp:NAME,"
            " py:FILE.py:FUNCTION, or one of dlcv's.",
        ),
    ] = None,
    task: Annotated[
        Literal["classify", "segment"] | None, typer.Option(help="Of --network.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of --network; repeat for more."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Of images, in pixels; without it, the network's own, or of masks the usual one up to 512.",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names, one a line; without it, classes.txt in the folder, or the names of folders.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Start --network from this weights file, or this run, without its head.",
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Which state dict of the weights file, if it holds several."
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Start --network from published weights: a download."),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's number; of --network, 20.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's; of --network, 32 or 8.")
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
    """Train a recipe, or a network on a folder of your images, and write the best checkpoint.

    With --network the recipe is written to OUT/recipe.yaml, from which the run can be repeated. Images lie in
    DATA/train/CLASS and DATA/val/CLASS, or in DATA/CLASS; with masks (PNG files of class indices) in DATA/train/images,
    DATA/train/masks and the same in DATA/val, or in DATA/images and DATA/masks. Without val, a fifth is held out.

    \b
    Examples:
      dlcv-train fit --network timm:resnet18 --data photos --task classify --weights resnet18.pth --out runs/photos
      dlcv-train fit --network smp:Unet --set encoder_name=resnet34 --data streets --task segment --size 256x512
      dlcv-train fit --network py:net.py:build --data photos --task classify --epochs 5
      dlcv-train fit runs/photos/recipe.yaml --data photos --out runs/again
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
    told: dict[str, Any] = {"--task": task, "--set": setting, "--size": size, "--classes": classes}
    told |= {"--weights": weights, "--pretrained": pretrained}
    _require_one_way(recipe, network, told)
    changes: dict[str, Any] = {"epochs": epochs, "seed": seed, "batch": batch_size}
    changes["weights_key"] = weights_key
    if network is not None:
        refused = {"--resume": resume, "--allow-missing": allow_missing, "--backbone": backbone}
        _require_none(
            refused, "--network begins a run; {} are for a recipe, such as OUT/recipe.yaml"
        )
        options = _run_options(network, {**told, **changes})
        recipe, out = _recipe_of_folder(data, options, out)
        changes = {}
    missing = tuple(allow_missing) if allow_missing else None
    chosen = changed(load_recipe(str(recipe)), allow_missing=missing, backbone=backbone, **changes)
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


def _require_one_way(recipe: str | None, network: str | None, told: dict[str, Any]) -> None:
    """Refuse a recipe beside a network, neither, and what would be ignored."""
    from dlcv.runtime.errors import InputError

    if recipe is None and network is None:
        raise InputError(
            "nothing to train; give a RECIPE, or --network NAME --data FOLDER --task classify|segment"
        )
    if recipe is not None and network is not None:
        raise InputError(
            f"the recipe {recipe} names its network; leave out --network, or leave out the recipe"
        )
    if network is None:
        _require_none(told, "{} are for --network; a recipe says that itself")
    elif told["--task"] is None:
        raise InputError("--network needs --task classify or --task segment")


def _require_none(options: dict[str, Any], sentence: str) -> None:
    from dlcv.runtime.errors import InputError

    if given := [name for name, value in options.items() if value]:
        raise InputError(sentence.format(", ".join(given)))


def _run_options(network: str, told: dict[str, Any]) -> RunOptions:
    import yaml

    from dlcv.cli.text import key_values, size_from_text
    from dlcv.train.folders import RunOptions

    settings = key_values(told["--set"], "--set")
    return RunOptions(
        network=network,
        task=told["--task"],
        settings={key: yaml.safe_load(value) for key, value in settings.items()},
        size=size_from_text(told["--size"]),
        classes=told["--classes"],
        weights=told["--weights"],
        pretrained=told["--pretrained"],
        **{name: told[name] for name in ("epochs", "seed", "batch", "weights_key")},
    )


def _recipe_of_folder(data: Path | None, options: RunOptions, out: Path | None) -> tuple[str, Path]:
    """Write the recipe for a folder of images. Return its path and the run's folder."""
    from dlcv.runtime.errors import InputError
    from dlcv.train.folders import recipe_for_folder, write_recipe

    if data is None:
        raise InputError("--network needs --data FOLDER, the folder with your images")
    found = recipe_for_folder(data, options)
    folder = out or Path("runs") / found.name
    path = write_recipe(found, folder)
    again = f"dlcv-train fit {path} --data {data} --out {folder}-2"
    lines = (*found.notes, f"recipe: {path}; to train it again: {again}", "")
    sys.stderr.write("\n".join(lines))
    return str(path), folder


def quiet_lightning() -> None:
    """Suppress Lightning's messages that are meant for its developers and customers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # tips and advertisements
    warnings.filterwarnings("ignore", module="lightning")  # about PyTorch
