"""Recipes for folders of people's own images, which nobody has to write."""

from __future__ import annotations

from dlcv.train.folders.compose import FolderRecipe, recipe_for_folder
from dlcv.train.folders.run_options import RunOptions
from dlcv.train.folders.write import write_recipe

__all__ = ["FolderRecipe", "RunOptions", "recipe_for_folder", "write_recipe"]
