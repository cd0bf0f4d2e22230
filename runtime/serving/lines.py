"""Writes lines from a thread of its own: a pipe that nobody reads must not stop the server."""

from __future__ import annotations

import queue
import threading
from typing import TextIO, final

from dlcv.runtime.results.base import Record
from dlcv.runtime.results.lines import json_text

_WAITING = 10_000  # lines; more are dropped and counted


@final
class LineWriter:
    """Writes records as lines of JSON to a stream, in order; when it cannot keep up, lines are dropped and counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: queue.Queue[Record | None] = queue.Queue(_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="dlcv-log", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Let a line be written soon."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self, *, seconds: float = 2.0) -> None:
        """Write what waits, for at most so long."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _write(self) -> None:
        while (record := self._queue.get()) is not None:
            if self._dropped:
                record = {**record, "lines_dropped": self._dropped}
                self._dropped = 0
            try:
                self._stream.write(json_text(record) + "\n")
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # closed; requests are answered all the same
                return
