"""A light HTTP client: it shares the machine with the server that it asks, so it must cost little.

    python bench/serving/load.py 8000 /predict/imagenet-lite0 photo.jpg --clients 32 --seconds 10
    python bench/serving/load.py 8000 /predict/imagenet-lite0 photo.jpg --clients 200 --rate 400 --seconds 60

Without --rate each client asks again as soon as it is answered. With --rate requests come at fixed times, whether or
not earlier ones are answered, as from strangers; latency counts from the time that a request was due.
Prints one line of JSON.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Counts:
    """What was answered. latencies, refusals: seconds of each 200 and of each other answer. failures: without an answer."""

    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    failures: int = 0

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        (self.latencies if status == 200 else self.refusals).append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def report(self, seconds: float) -> dict[str, object]:
        """Return rates and percentiles in milliseconds."""
        return {
            "seconds": seconds,
            "per_second": len(self.latencies) / seconds,
            **{f"p{p}_ms": percentile(self.latencies, p) for p in (50, 90, 99)},
            "refused_p99_ms": percentile(self.refusals, 99),
            "statuses": self.statuses,
            "failures": self.failures,
        }


def percentile(values: list[float], percent: int) -> float | None:
    """Return a percentile of seconds in milliseconds; None of nothing."""
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, len(values) * percent // 100)] * 1e3, 3)


class Connection:
    """One connection that is kept open."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, *, limit: float = 60) -> int:
        """Send the request; return the status."""
        async with asyncio.timeout(limit):
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.index(b"content-length:") + 15
            await reader.readexactly(int(head[length : head.index(b"\r\n", length)]))
            if b"connection: close" in head:
                self.close()
            return int(head[9:12])

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, request: bytes, *, clients: int, seconds: float) -> Counts:
    """Let each client ask again as soon as it is answered."""
    counts, end = Counts(), time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port, request)
        while (start := time.perf_counter()) < end:
            await asked(connection, counts, start)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return counts


async def open_loop(
    port: int, request: bytes, *, clients: int, rate: float, seconds: float
) -> Counts:
    """Let requests come at fixed times; they wait for a free connection where there is none."""
    counts, start = Counts(), time.perf_counter()
    due: Iterator[float] = (start + number / rate for number in range(int(rate * seconds)))

    async def client() -> None:
        connection = Connection(port, request)
        for moment in due:  # shared: each client takes the next
            await asyncio.sleep(max(0, moment - time.perf_counter()))
            await asked(connection, counts, moment)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return counts


async def asked(connection: Connection, counts: Counts, start: float) -> None:
    """Ask once and count it."""
    try:
        counts.add(await connection.ask(), time.perf_counter() - start)
    except (OSError, EOFError, TimeoutError):
        counts.failures += 1
        connection.close()


def http_request(path: str, data: bytes, *, is_form: bool = False) -> bytes:
    """Return a POST of a photo: as it is, or as the one file of a form."""
    kind = "image/jpeg"
    if is_form:
        kind = "multipart/form-data; boundary=xx"
        field = 'Content-Disposition: form-data; name="image"; filename="photo.jpg"'
        start = f"--xx\r\n{field}\r\nContent-Type: image/jpeg\r\n\r\n"
        data = start.encode() + data + b"\r\n--xx--\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def main() -> None:
    """Load a server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--form", action="store_true")
    o = parser.parse_args()
    request = http_request(o.path, o.photo.read_bytes(), is_form=o.form)
    start = time.perf_counter()
    if o.rate is None:
        work = closed_loop(o.port, request, clients=o.clients, seconds=o.seconds)
    else:
        work = open_loop(o.port, request, clients=o.clients, rate=o.rate, seconds=o.seconds)
    try:
        import uvloop
    except ModuleNotFoundError:
        counts = asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            counts = runner.run(work)
    print(json.dumps(counts.report(time.perf_counter() - start)))


if __name__ == "__main__":
    main()
