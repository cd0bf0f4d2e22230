"""A build's progress: TensorRT's nested phases as one share, and a Ctrl-C that stops the build."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseShares:
    """The share done of nested phases; it never falls."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, name: str, *, parent: str | None, steps: int) -> float:
        """Begin a phase of `steps` steps inside one of the parent's; return the share done of all."""
        self._phases[name] = _Phase(parent=parent, steps=max(steps, 1))
        return self._total()

    def step(self, name: str, number: int) -> float:
        """End step `number`, counted from 0; return the share done of all."""
        if name in self._phases:
            self._phases[name].done = number + 1
        return self._total()

    def finish(self, name: str) -> float:
        """End a phase; return the share done of all."""
        phase = self._phases.pop(name, None)
        if phase is not None and phase.parent is None:
            self._share = 1.0
        return self._total()

    def _total(self) -> float:
        roots = [self._of(name) for name, p in self._phases.items() if p.parent is None]
        self._share = max([self._share, *roots])
        return self._share

    def _of(self, name: str) -> float:
        phase = self._phases[name]
        inner = [self._of(child) for child, p in self._phases.items() if p.parent == name]
        return min(1.0, (phase.done + max(inner, default=0.0)) / phase.steps)


def new_monitor(trt: Any, tell: Callable[[float], None]) -> Any:
    """Return a progress monitor that tells the share done, and ends the build once its `stopped` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.shares = PhaseShares()
            self.stopped = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            tell(self.shares.start(name, parent=parent, steps=steps))

        def step_complete(self, name: str, number: int) -> bool:
            tell(self.shares.step(name, number))
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            tell(self.shares.finish(name))

    return Monitor()


@contextmanager
def interruptible(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C stop the build at its next step, then raise KeyboardInterrupt.

    An exception raised inside one of TensorRT's callbacks would be printed and lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        monitor.stopped = True

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)
    if monitor.stopped:
        raise KeyboardInterrupt
