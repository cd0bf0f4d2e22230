"""Bundles that ship, with a graph that resizes by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dlcv.export.any_size import AnySizeOptions, add_any_size
from dlcv.runtime.bundle import Bundle


@pytest.fixture(scope="session")
def any_size_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Adds the graph to a copy of a bundle that ships, once a session. Read only."""
    folder: Path = tmp_path_factory.mktemp("any-size")
    made: dict[str, Bundle] = {}

    def bundle(name: str) -> Bundle:
        if name not in made:
            made[name] = add_any_size(name, AnySizeOptions(out=folder / name))
        return made[name]

    return bundle
