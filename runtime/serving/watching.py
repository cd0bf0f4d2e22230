"""Serves every bundle in a folder, and takes up new and changed ones without dropping a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, final

from dlcv.runtime.bundle import MANIFEST, open_bundle
from dlcv.runtime.errors import DlcvError, InputError
from dlcv.runtime.running.predictor import Predictor
from dlcv.runtime.serving.loading import ModelLoader, require_name
from dlcv.runtime.serving.served import ServedModel
from dlcv.runtime.serving.state import Serving

Signature: TypeAlias = "tuple[tuple[str, int, int], ...]"
"""Name, time of change in ns and size of each file."""


@final
class ModelFolder:
    """The bundles in a folder: each folder in it that holds a manifest, served under the folder's name.

    A bundle is taken up when its files have not changed for one look, so that one that is being copied is let alone. One
    that is broken is refused and said, and what was served under its name before goes on being served.
    """

    def __init__(
        self, path: Path, serving: Serving, loader: ModelLoader, *, say: Callable[[str], object]
    ) -> None:
        """Say: told what was taken up or refused, in a line.

        Raises:
            InputError: there is no such folder.
        """
        if not path.is_dir():
            raise InputError(f"--models {path} is no folder")
        self._path = path
        self._serving = serving
        self._loader = loader
        self._say = say
        self._taken: dict[str, Signature] = {}  # served or refused as they are
        self._seen: dict[str, Signature] = {}  # at the last look
        self._owned: set[str] = set()  # names that are served from here

    async def look(self, *, at_once: bool = False) -> None:
        """Take up what is new, and let go of what is gone. at_once: also what was not there at the last look."""
        found = await asyncio.to_thread(self._signatures)
        for name, signature in found.items():
            is_settled = at_once or self._seen.get(name) == signature
            if is_settled and self._taken.get(name) != signature:
                self._taken[name] = signature
                await self._take_up(name)
        for name in self._taken.keys() - found.keys():
            del self._taken[name]
            self._let_go(name)
        self._seen = found

    async def watch(self, *, every_s: float) -> None:
        """Look again and again, until this is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.look()
            except OSError as e:
                self._say(f"cannot look into {self._path}: {e}")

    async def _take_up(self, name: str) -> None:
        if name in self._serving.models and name not in self._owned:
            self._say(f"refused {self._path / name}: a model {name!r} is served already")
            return
        try:
            require_name(name)
            predictor = await asyncio.to_thread(self._load, name)
        except DlcvError as e:
            kept = "; the one before goes on" if name in self._owned else ""
            self._say(f"refused {self._path / name}: {e}{kept}")
            return
        self._serving.serve(ServedModel(name, predictor))
        self._owned.add(name)
        self._say(f"serving {name} ({predictor.bundle.manifest.task}) on {predictor.engine.info}")

    def _load(self, name: str) -> Predictor:
        return self._loader(open_bundle(self._path / name))

    def _let_go(self, name: str) -> None:
        if name in self._owned:
            self._owned.discard(name)
            self._serving.models.remove(name)
            self._say(f"no longer serving {name}: its folder is gone")

    def _signatures(self) -> dict[str, Signature]:
        return {
            path.name: _signature(path)
            for path in sorted(self._path.iterdir())
            if not path.name.startswith(".") and (path / MANIFEST).is_file()
        }


def _signature(folder: Path) -> Signature:
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:  # it is being copied or removed
            continue
        found.append((path.relative_to(folder).as_posix(), status.st_mtime_ns, status.st_size))
    return tuple(found)
