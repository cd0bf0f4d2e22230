"""`dlcv-train data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def data(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a built-in recipe by name.")
    ],
    folder: Annotated[
        Path | None, typer.Option("--data", help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
) -> None:
    """Read a recipe's data as training would, and print its balance, sizes and suspicious images.

    Of a segmenter's class: the images in which it occurs, and its share of the pixels.

    \b
    Examples:
      dlcv-train data camvid-lraspp --data ~/data
      dlcv-train data my-recipe.yaml
    """
    from dlcv.runtime.report import table
    from dlcv.train.data import load_dataset
    from dlcv.train.data.check import balances, summary_lines
    from dlcv.train.recipe import Recipe, data_root, load_recipe

    chosen, root = load_recipe(recipe, Recipe), data_root(folder)
    train = load_dataset(chosen, root, split="train")
    validation = load_dataset(chosen, root, split="validation")
    columns = [balances(split, classes=len(chosen.classes)) for split in (train, validation)]
    rows = [
        (name, *(text for b in both for text in (f"{b.images:,}", f"{b.share:.1%}")))
        for name, *both in zip(chosen.class_names, *columns, strict=True)
    ]
    header = ("class", "training", "share", "validation", "share")
    print("\n".join(table([header, *rows])))
    print("\n".join(summary_lines(chosen, train=train, validation=validation)))
