"""Folders as they lie on a disk, links and all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

RESULTS_STATE = ".dlcv"
"""The folder by which a results folder of dlcv's is known."""
RESULTS_FOLDERS = frozenset(("masks", "overlays", "maps", "confidence"))
"""The folders of a results folder that hold what dlcv made of images."""


def walked(
    folder: Path,
    *,
    enters: Callable[[str], bool] = lambda _: True,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and those in it, at any depth and each sorted, with the names of their files.

    Links to folders are followed, after all that lies in the folder itself; a folder to which several ways lead is
    yielded once, so a link to a parent ends there. What dlcv made of images is passed over: they may lie beside their
    results. enters: whether a folder of this name is. on_error: told of one
    that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    links = deque([str(folder)])
    while links:
        for root, folders, files in os.walk(links.popleft(), onerror=on_error):
            status = Path(root).stat()
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            own = RESULTS_FOLDERS if RESULTS_STATE in folders else frozenset()
            folders[:] = sorted(name for name in folders if enters(name) and name not in own)
            links.extend(
                path for name in folders if Path(path := f"{root}{os.sep}{name}").is_symlink()
            )
            yield Path(root), sorted(files)
