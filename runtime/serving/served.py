"""The models that a server holds: by name, replaced without dropping a request.

All of it runs on the event loop's thread, but for loading and closing.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from dlcv.runtime.bundle.schema import Task
from dlcv.runtime.errors import QueueFullError
from dlcv.runtime.fewshot.prototypes import PrototypeClassifier, Prototypes
from dlcv.runtime.running.predictor import Predictor
from dlcv.runtime.serving.errors import UnknownError

VERSION = "1"
"""Of every model: a bundle has its SHA-256 instead."""


class Used(ABC):
    """What requests use, and what is closed once none does."""

    def __init__(self) -> None:
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open meanwhile, also when it is replaced."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self) -> None:
        """Free it once nobody uses it."""
        await self._unused.wait()
        await asyncio.to_thread(self._close)

    @abstractmethod
    def _close(self) -> None:
        """Free it now."""


@final
class ServedPrototypes(Used):
    """A set of few-shot classes."""

    def __init__(self, classifier: PrototypeClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def prototypes(self) -> Prototypes:
        """The classes."""
        return self.classifier.prototypes

    def _close(self) -> None:
        self.classifier.close()


@final
class ServedModel(Used):
    """A loaded bundle under its name. sets: few-shot classes, by the name of their set."""

    def __init__(self, name: str, predictor: Predictor) -> None:
        super().__init__()
        self.name = name
        self.predictor = predictor
        self.sets: dict[str, ServedPrototypes] = {}

    @property
    def task(self) -> Task:
        """The bundle's task."""
        return self.predictor.bundle.manifest.task

    def require_room(self) -> None:
        """Check that there is a place, before a request's body is read: a refusal should cost little.

        Raises:
            QueueFullError: there is none.
        """
        predictor = self.predictor
        if predictor.under_way >= predictor.queue_size:
            raise QueueFullError(
                f"all {predictor.queue_size} places of model {self.name!r} are taken; try again later"
            )

    def prototypes(self, name: str) -> ServedPrototypes:
        """Return a set of prototypes.

        Raises:
            UnknownError: the model has no such set.
        """
        if name not in self.sets:
            known = ", ".join(sorted(self.sets)) or "none"
            raise UnknownError(
                f"model {self.name!r} has no prototypes {name[:80]!r}; it has {known}"
            )
        return self.sets[name]

    def _close(self) -> None:
        for prototypes in self.sets.values():
            prototypes.classifier.close()
        self.predictor.close()


@final
class ServedModels:
    """Models by name."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def get(self, name: str, *, version: str = "") -> ServedModel:
        """Return the model of a name.

        Raises:
            UnknownError: there is none, or not in this version.
        """
        if name not in self._models:
            names = ", ".join(sorted(self._models)) or "none"
            raise UnknownError(f"there is no model {name[:80]!r}; the server has {names}")
        if version not in ("", VERSION):
            raise UnknownError(f"model {name!r} has version {VERSION} only, not {version[:20]!r}")
        return self._models[name]

    def put(self, model: ServedModel) -> None:
        """Serve a model under its name from now on; one that had the name is closed when its requests are answered."""
        old = self._models.get(model.name)
        self._models[model.name] = model
        if old is not None:
            self._close(old)

    def remove(self, name: str) -> None:
        """Serve a model no longer; it is closed when its requests are answered."""
        if (old := self._models.pop(name, None)) is not None:
            self._close(old)

    async def close(self, *, seconds: float) -> None:
        """Close all models, those too that wait for their last requests; wait for these so long and no longer."""
        for name in list(self._models):
            self.remove(name)
        if self._closing:
            await asyncio.wait(self._closing, timeout=seconds)

    def _close(self, model: ServedModel) -> None:
        task = asyncio.get_running_loop().create_task(model.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
