"""Build progress: reports TensorRT's nested phases as one share, and lets Ctrl-C stop a build."""

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
    """Converts progress in nested phases to one share of the whole, which never decreases."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, name: str, *, parent: str | None, steps: int) -> float:
        """Begin a phase of `steps` steps, inside one step of its parent. Return the share of the whole."""
        self._phases[name] = _Phase(parent=parent, steps=max(steps, 1))
        return self._total()

    def step(self, name: str, number: int) -> float:
        """End step `number`, counted from 0. Return the share of the whole."""
        if name in self._phases:
            self._phases[name].done = number + 1
        return self._total()

    def finish(self, name: str) -> float:
        """End a phase. Return the share of the whole."""
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
    """Return a progress monitor that reports the share done, and stops the build once `stopped` is set."""

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
    """Make Ctrl-C stop the build at its next step, then raise KeyboardInterrupt.

    An exception raised inside a TensorRT callback would be printed and lost.
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
