"""Writes lines from a thread of its own: a pipe that nobody reads must not stop the server."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TextIO, final

from dlcv.runtime.results.base import Record
from dlcv.runtime.results.lines import line_from_record

_WAITING = 10_000  # lines; more are dropped and counted
_EVERY_S = 0.05  # to wake for each line would cost more than to write it


@final
class LineWriter:
    """Writes records as lines of JSON to a stream, in order; when it cannot keep up, lines are dropped and counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._records: deque[Record] = deque()
        self._dropped = 0
        self._is_closed = False
        self._has_work = threading.Event()
        self._thread = threading.Thread(target=self._write, name="dlcv-log", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Let a line be written soon."""
        if len(self._records) >= _WAITING:
            self._dropped += 1
            return
        self._records.append(record)
        if not self._has_work.is_set():
            self._has_work.set()

    def close(self, *, seconds: float = 2.0) -> None:
        """Write what waits, for at most so long."""
        self._is_closed = True
        self._has_work.set()
        self._thread.join(seconds)

    def _write(self) -> None:
        while self._records or not self._is_closed:
            self._has_work.wait()
            if not self._is_closed:
                time.sleep(_EVERY_S)
            self._has_work.clear()
            try:
                self._stream.write("".join(map(line_from_record, self._taken())))
                self._stream.flush()
            except (OSError, ValueError):  # closed; requests are answered all the same
                return

    def _taken(self) -> list[Record]:
        records = [self._records.popleft() for _ in range(len(self._records))]
        if records and self._dropped:
            records[0] = {**records[0], "lines_dropped": self._dropped}
            self._dropped = 0
        return records
