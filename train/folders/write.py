"""Puts the recipe of a run on a folder of images into the run's own folder, before it is trained."""

from __future__ import annotations

from pathlib import Path

from dlcv.runtime.errors import OutputError
from dlcv.train.checkpoint import RECIPE_FILE
from dlcv.train.fit import check_output, require_free
from dlcv.train.folders.compose import FolderRecipe


def write_recipe(found: FolderRecipe, out: Path) -> Path:
    """Write a recipe, and the Python file of a `py:` network beside it. Return the recipe's path.

    Raises:
        OutputError: the folder already holds a run, or another file of these names, or cannot be written.
    """
    check_output(out)
    files = {**found.files, RECIPE_FILE: found.text.encode()}
    require_free(out, files)
    try:
        for name, data in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
    except OSError as e:
        raise OutputError(f"cannot write a recipe to {out}: {e.strerror or e}") from e
    return out / RECIPE_FILE
