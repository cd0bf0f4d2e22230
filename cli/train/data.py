"""`dlcv-train data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dlcv.train.data import AnyDataset
    from dlcv.train.recipe import Recipe


def data(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a built-in recipe by name.")
    ],
    folder: Annotated[
        Path | None, typer.Option("--data", help="Data root; without it, the variable DLCV_DATA.")
    ] = None,
) -> None:
    """Read a recipe's data as training would, and print its balance, sizes and suspicious images.

    Of a segmenter's class: the images in which it occurs, and its share of the pixels. Of few-shot runs: what episodes
    are drawn from; of captions: words, and what is cut or not in the vocabulary.

    \b
    Examples:
      dlcv-train data camvid-lraspp --data ~/data
      dlcv-train data my-recipe.yaml
    """
    from dlcv.train.data.check import summary_lines
    from dlcv.train.recipe import Recipe, data_root, load_recipe
    from dlcv.train.tasks import task_kind

    chosen, root = load_recipe(recipe), data_root(folder)
    found: Any = task_kind(chosen.task).data(chosen, root)
    if not isinstance(chosen, Recipe):
        print("\n".join(found.summary_lines()))
        return
    splits = {"train": found.train_set, "validation": found.validation_set}
    print("\n".join(_balance_table(chosen, *splits.values())))
    print("\n".join(summary_lines(chosen, **splits, thorough=True)))


def _balance_table(recipe: Recipe, train: AnyDataset, validation: AnyDataset) -> list[str]:
    from dlcv.runtime.bundle.report import table
    from dlcv.train.data.check import balances

    columns = [balances(split, classes=len(recipe.classes)) for split in (train, validation)]
    rows = [
        (name, *(text for b in both for text in (f"{b.images:,}", f"{b.share:.1%}")))
        for name, *both in zip(recipe.class_names, *columns, strict=True)
    ]
    return table([("class", "training", "share", "validation", "share"), *rows])
