"""`dlcv-train recipes`."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(
    show: Annotated[str | None, typer.Option(help="Print this recipe's YAML instead.")] = None,
) -> None:
    """List the recipes that come with dlcv, a line each.

    \b
    Examples:
      dlcv-train recipes
      dlcv-train recipes --show camvid-lraspp > my-recipe.yaml
    """
    from dlcv.cli.text import terminal_width
    from dlcv.runtime.bundle.report import table
    from dlcv.runtime.errors import RecipeError
    from dlcv.train.recipe import RECIPE_FOLDER, builtin_recipes, load_recipe

    names = builtin_recipes()
    if show is None:
        rows = [(name, load_recipe(name).description) for name in names]
        print("\n".join(table(rows, width=terminal_width())))
    elif show in names:
        print((RECIPE_FOLDER / f"{show}.yaml").read_text(encoding="utf-8"), end="")
    else:
        raise RecipeError(f"no built-in recipe {show!r}; there are {', '.join(names)}")
