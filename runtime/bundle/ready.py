"""Bundles that are ready to run: those that ship with dlcv, and those of other packages.

A package adds bundles by entry points of the group `dlcv.bundles`: the name is the bundle's, the value is the import
package in whose folder the bundle lies, in a folder of the bundle's name. Nothing of the package is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "dlcv.bundles"
BUILTIN_FOLDER = Path(__file__).parents[1] / "bundles"
BUILTIN = {  # command: bundle that runs when none is named
    "classify": "imagenet-lite0",
    "attend": "imagenette-vit",
    "embed": "imagenet-lite0",
    "fewshot": "imagenet-lite0",
    "segment": "voc-deeplab",
}
PACKAGES = {"imagenette-vit": ("dlcv-vit", "packages/vit")}
"""Bundles that dlcv publishes as packages of their own, because of their size: distribution, folder in the repository."""


def ready_names() -> list[str]:
    """Return the names of all bundles that are ready, sorted."""
    shipped = {path.name for path in BUILTIN_FOLDER.iterdir() if path.is_dir()}
    return sorted(shipped | {point.name for point in _added()})


def ready_folder(name: str) -> Path | None:
    """Return the folder of a bundle that is ready, or None if none has this name. A name of dlcv's own stays dlcv's."""
    if name in {path.name for path in BUILTIN_FOLDER.iterdir()}:
        return BUILTIN_FOLDER / name
    for point in (point for point in _added() if point.name == name):
        package, *inner = point.module.split(".")
        spec = find_spec(package)  # of a package that is in no other: does not import it
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder, *inner, name)
            if path.is_dir():
                return path
    return None


def _added() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # takes 15 ms

    return entry_points(group=GROUP)


def is_ready_folder(folder: Path) -> bool:
    """Whether a folder, resolved, is that of a bundle that is ready."""
    ready = ready_folder(folder.name)
    return ready is not None and ready.resolve() == folder


def how_to_get(name: str) -> str | None:
    """Return a sentence on how to install a bundle that dlcv publishes as a package of its own; None of others."""
    if name not in PACKAGES:
        return None
    distribution, folder = PACKAGES[name]
    return (
        f"the bundle {name} is a package of its own, because it is large: run pip install ./{folder} in dlcv's "
        f"repository (distribution {distribution}), or name another bundle"
    )
