"""Lines are written in order by a thread, and dropped and counted when nobody reads."""

import io
import json
import threading

from tests.runtime.serving.conftest import SECONDS, until

from dlcv.runtime.serving.lines import LineWriter


def test_lines_come_in_order_and_the_last_before_the_end() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    for number in range(100):
        writer.write({"number": number})
    writer.close()
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == [*range(100)]


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    class Stuck(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.go = threading.Event(), threading.Event()

        def write(self, text: str) -> int:
            self.begun.set()
            self.go.wait(SECONDS)
            return super().write(text)

    stream = Stuck()
    writer = LineWriter(stream)
    writer.write({"number": 0})
    until(stream.begun.is_set)
    for number in range(1, 10_101):
        writer.write({"number": number})
    stream.go.set()
    writer.close(seconds=SECONDS)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 10_001
    assert lines[1] == {"number": 1, "lines_dropped": 100}


def test_a_stream_that_is_closed_ends_the_thread_and_nothing_else() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    stream.close()
    writer.write({"number": 0})
    until(lambda: not writer._thread.is_alive())
    writer.write({"number": 1})
    writer.close()
